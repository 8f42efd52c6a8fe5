"""One record for each model family: all that is known of it, and used by everybody who needs to know.

Paths name modules, from the model on (`blocks`, `embed`, `norm`, `head`) or from a block on (all others); a place that
begins with ">" is the input of the module, any other its output. A new family is a record here and a small model in
the tests. What a record claims is compared with the model before it is used: see `trust` and `anatomy`.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import nn

from ..errors import CourseError
from ..models import inner, is_bridge


@dataclass(frozen=True)
class Family:
    """Where a family keeps its activations, and what it does between them.

    attn_out, mlp_out: what is *added* to the stream, after a norm that follows attention or MLP if there is one.
    mid: the stream between attention and MLP; None where both read the same stream (or `parallel` is set).
    qkv: matrices of queries, keys and values; one path if they are fused, by thirds or (`by_head`) head by head.
    up: what leads into the neurons; two paths where they have a gate, the gate first.
    residual_scale, embed_scale, logit_scale, logit_divisor, softcap: names in the configuration.
    sums: False where the stream is normalised after each sum, so that it is no sum of what was added.
    in_pieces: True if a pass may stop between its pieces (`anatomy`).
    """
    blocks: str
    embed: str
    norm: str | None
    attn_out: str
    mlp_out: str
    out: str                                # projection of the heads' outputs
    down: str | None                        # projection of the neurons; None where experts share the work
    qkv: tuple[str, ...]
    up: tuple[str, ...]
    activation: str
    norm1: str | None
    norm2: str | None
    mid: str | None
    head: str = "lm_head"
    by_head: bool = False
    parallel: bool | str = False            # or the name in the configuration that says so
    after_attention: str | None = None      # norms between a part and the sum
    after_mlp: str | None = None
    head_norms: tuple[str, ...] = ()        # of queries and keys
    norm_offset: float = 0.0                # a norm multiplies by offset + weight
    positions: str | None = None            # learned positions, added to the embedding
    rotary: str | None = None
    project: str | None = None              # between the final norm and the unembedding
    embed_scale: str | None = None
    residual_scale: str | None = None
    logit_scale: str | None = None
    logit_divisor: str | None = None
    softcap: str | None = None
    sums: bool = True
    sees_ahead: bool = False                # an encoder: what it really does is measured (`trust`)
    in_pieces: bool = False


GPT2 = Family(
    blocks="transformer.h", embed="transformer.wte", norm="transformer.ln_f", attn_out="attn", mlp_out="mlp",
    out="attn.c_proj", down="mlp.c_proj", qkv=("attn.c_attn",), up=("mlp.c_fc",), activation="mlp.act",
    norm1="ln_1", norm2="ln_2", mid=">ln_2", positions="transformer.wpe", in_pieces=True)
GPTJ = replace(
    GPT2, out="attn.out_proj", down="mlp.fc_out", qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"), up=("mlp.fc_in",),
    norm2=None, mid=None, positions=None, parallel=True, in_pieces=False)
NEOX = Family(
    blocks="gpt_neox.layers", embed="gpt_neox.embed_in", norm="gpt_neox.final_layer_norm", attn_out="attention",
    mlp_out="mlp", out="attention.dense", down="mlp.dense_4h_to_h", qkv=("attention.query_key_value",), by_head=True,
    up=("mlp.dense_h_to_4h",), activation="mlp.act", norm1="input_layernorm", norm2="post_attention_layernorm",
    mid=">post_attention_layernorm", parallel="use_parallel_residual", rotary="gpt_neox.rotary_emb", head="embed_out",
    in_pieces=True)
BLOOM = Family(
    blocks="transformer.h", embed="transformer.word_embeddings", norm="transformer.ln_f",
    attn_out="self_attention.dense", mlp_out="mlp.dense_4h_to_h", out="self_attention.dense", down="mlp.dense_4h_to_h",
    qkv=("self_attention.query_key_value",), by_head=True, up=("mlp.dense_h_to_4h",), activation="mlp.gelu_impl",
    norm1="input_layernorm", norm2="post_attention_layernorm", mid="self_attention")
LLAMA = Family(
    blocks="model.layers", embed="model.embed_tokens", norm="model.norm", attn_out="self_attn", mlp_out="mlp",
    out="self_attn.o_proj", down="mlp.down_proj", qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    up=("mlp.gate_proj", "mlp.up_proj"), activation="mlp.act_fn", norm1="input_layernorm",
    norm2="post_attention_layernorm", mid=">post_attention_layernorm", rotary="model.rotary_emb", in_pieces=True)
STABLELM = replace(LLAMA, parallel="use_parallel_residual")
QWEN3 = replace(LLAMA, head_norms=("self_attn.q_norm", "self_attn.k_norm"))
MIXTRAL = replace(LLAMA, down=None, in_pieces=False)
GEMMA = replace(LLAMA, norm_offset=1.0)
GRANITE = replace(LLAMA, embed_scale="embedding_multiplier", residual_scale="residual_multiplier",
                  logit_divisor="logits_scaling")
AFTER = dict(attn_out="post_attention_layernorm", after_attention="post_attention_layernorm",
             mlp_out="post_feedforward_layernorm", after_mlp="post_feedforward_layernorm")
GEMMA2 = replace(GEMMA, **AFTER, norm2="pre_feedforward_layernorm", mid=">pre_feedforward_layernorm",
                 softcap="final_logit_softcapping", in_pieces=False)
GEMMA3 = replace(GEMMA2, head_norms=QWEN3.head_norms)
OLMO2 = replace(LLAMA, **AFTER, norm1=None, norm2=None, mid=">mlp", head_norms=QWEN3.head_norms)
COHERE = replace(LLAMA, norm2=None, mid=None, parallel=True, logit_scale="logit_scale", in_pieces=False)
PHI = replace(LLAMA, norm="model.final_layernorm", out="self_attn.dense", down="mlp.fc2", up=("mlp.fc1",),
              activation="mlp.activation_fn", norm2=None, mid=None, parallel=True)
OPT = Family(
    blocks="model.decoder.layers", embed="model.decoder.embed_tokens", norm="model.decoder.final_layer_norm",
    attn_out="self_attn", mlp_out="fc2", out="self_attn.out_proj", down="fc2", qkv=LLAMA.qkv, up=("fc1",),
    activation="activation_fn", norm1="self_attn_layer_norm", norm2="final_layer_norm", mid=">final_layer_norm",
    project="model.decoder.project_out")
OPT_NORM_AFTER = replace(OPT, norm=None, mid="self_attn_layer_norm", sums=False)
BERT = Family(
    blocks="bert.encoder.layer", embed="bert.embeddings.word_embeddings", norm=None, attn_out="attention.output.dense",
    mlp_out="output.dense", out="attention.output.dense", down="output.dense",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"), up=("intermediate.dense",),
    activation="intermediate.intermediate_act_fn", norm1=None, norm2=None, mid="attention.output", head="", sums=False, sees_ahead=True)
ROBERTA = replace(BERT, blocks="roberta.encoder.layer", embed="roberta.embeddings.word_embeddings")

FAMILIES = {
    "gpt2": GPT2, "gptj": GPTJ, "gpt_neox": NEOX, "bloom": BLOOM, "llama": LLAMA, "qwen2": LLAMA, "qwen3": QWEN3,
    "mistral": LLAMA, "mixtral": MIXTRAL, "gemma": GEMMA, "gemma2": GEMMA2, "gemma3_text": GEMMA3, "granite": GRANITE,
    "olmo2": OLMO2, "stablelm": STABLELM, "cohere": COHERE, "phi": PHI, "opt": OPT, "bert": BERT, "roberta": ROBERTA}


def plain_of(model):
    """The Hugging Face model inside a bridge; any other model as it is."""
    return model.original_model if is_bridge(model) else model


def family_of(model) -> Family | None:
    """The record of a model's family; None if there is none."""
    config = getattr(plain_of(model), "config", None)
    kind = getattr(config, "model_type", None)
    if kind == "opt" and not config.do_layer_norm_before:
        return OPT_NORM_AFTER
    return FAMILIES.get(kind)


def require_family(model) -> Family:
    """The record of a model's family. Raises CourseError if there is none."""
    family = family_of(model)
    if family is None:
        kind = getattr(getattr(plain_of(model), "config", None), "model_type", type(model).__name__)
        raise CourseError(f"models of type {kind!r} are not known here; known are {', '.join(FAMILIES)}")
    return family


def is_parallel(family: Family, config) -> bool:
    """True if attention and MLP read the same stream."""
    return getattr(config, family.parallel) if isinstance(family.parallel, str) else family.parallel


def module_at(root, path: str) -> nn.Module | None:
    """The module at a path; also through the components that a bridge wraps around the modules. None if it is not there."""
    for part in path.split("."):
        root = getattr(root, part, None) if hasattr(root, part) else getattr(inner(root), part, None)
        if root is None:
            return None
    return root


def block_of(model, family: Family, layer: int) -> nn.Module:
    """One layer. Raises CourseError for a model that is not built as its family's language models are."""
    blocks = module_at(plain_of(model), family.blocks)
    if blocks is None:
        raise CourseError(f"a {type(plain_of(model)).__name__} has no {family.blocks!r}, where its family keeps its layers: "
                          "load it with a head, such as transformers.AutoModelForCausalLM")
    return blocks[layer]


def setting(model, name: str | None, default=None):
    """What the configuration says under a name of the record; `default` if the record names nothing."""
    return default if name is None else getattr(plain_of(model).config, name, default)


def matrix_of(module: nn.Module) -> Float[torch.Tensor, "input output"]:
    """The weights of a linear map, whichever way round its library keeps them."""
    module = inner(module)
    return module.weight if type(module).__name__ == "Conv1D" else module.weight.T

"""A transformer taken apart: the pieces of each family, so that a pass can stop between any two of them.

`anatomy_of` gives the pieces of a causal model, or None where only the model's own forward pass is to be trusted: an
unknown or bidirectional family, training mode, hooks that somebody left on it, or pieces that, put together again, do
not give the logits of the model itself.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterator
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn

from ..models import Prompts, inner, is_bridge

Tensor = torch.Tensor
PART_OF_THE_VOCABULARY = 2048


@dataclass(frozen=True)
class Block:
    """One layer. `qkv` gives queries, keys and values, each [row, position, head x size], before any rotation."""
    norm1: Callable[[Tensor], Tensor]
    qkv: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    out: Callable[[Tensor], Tensor]
    norm2: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]
    parallel: bool = False  # attention and MLP read the same stream
    norm_heads: tuple[Callable, Callable] | None = None  # of queries and of keys, head by head, before any rotation


@dataclass(frozen=True)
class Anatomy:
    """A causal model in pieces. `place` turns token embeddings into the stream that enters block 0."""
    model: object
    blocks: list[Block]
    embed: Callable[[Tensor], Tensor]
    place: Callable[[Tensor, Int[Tensor, "position"]], Tensor]
    angles: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None  # cosine and sine of rotary positions
    norm: Callable[[Tensor], Tensor]
    unembed: nn.Linear
    heads: int
    key_heads: int
    classifies: bool
    up_matrices: int = 1  # two where neurons have a gate

    def logits(self, stream: Float[Tensor, "*batch width"], tokens: Int[Tensor, "token"] | None = None) -> Tensor:
        """Logits of all tokens (or classes), or only of some; [*batch, token]."""
        return torch.cat(list(self._logits_by_part(stream, tokens)), -1)

    def log_normaliser(self, stream: Float[Tensor, "row width"]) -> Float[Tensor, "row"]:
        """Logarithm of the sum of exponentials of all logits; they are not held together."""
        sums = [part[:, 0] - part.log_softmax(-1)[:, 0] for part in self._logits_by_part(stream)]
        return torch.stack(sums).logsumexp(0)

    def _logits_by_part(self, stream: Tensor, tokens: Int[Tensor, "token"] | None = None) -> Iterator[Tensor]:
        """Several narrow products are faster than one as wide as the vocabulary."""
        weight, bias, stream = self.unembed.weight, self.unembed.bias, self.norm(stream)
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        for start in range(0, len(weight), PART_OF_THE_VOCABULARY):
            part = slice(start, start + PART_OF_THE_VOCABULARY)
            yield F.linear(stream, weight[part], None if bias is None else bias[part])


def _activation(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """GPT-2's GELU in one step instead of eight; equal to 1e-6."""
    return (lambda x: F.gelu(x, approximate="tanh")) if type(module).__name__ == "NewGELUActivation" else module


# ---------------------------------------------------------------- the families

def _gpt2(model, config) -> dict:
    core = model.transformer

    def block(layer) -> Block:
        layer = inner(layer)
        attention, mlp = inner(layer.attn), inner(layer.mlp)
        fused, up, act = inner(attention.c_attn), inner(mlp.c_fc), _activation(mlp.act)
        return Block(inner(layer.ln_1), lambda x: fused(x).split(config.n_embd, -1), inner(attention.c_proj),
                     inner(layer.ln_2), lambda x: act(up(x)), inner(mlp.c_proj))

    places = inner(core.wpe)
    return dict(blocks=[block(layer) for layer in core.h], embed=inner(core.wte), angles=None, norm=inner(core.ln_f),
                place=lambda x, positions: x + places(positions))


def _rotated(core, config) -> Callable:
    rotary = inner(core.rotary_emb)
    return lambda x, positions: rotary(x, positions[None])


def _llama(model, config) -> dict:
    core = model.model

    def block(layer) -> Block:
        layer = inner(layer)
        attention, mlp = inner(layer.self_attn), inner(layer.mlp)
        projections = [inner(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj")]
        gate, up, act = inner(mlp.gate_proj), inner(mlp.up_proj), mlp.act_fn
        norms = tuple(inner(getattr(attention, name)) for name in ("q_norm", "k_norm") if hasattr(attention, name))
        return Block(inner(layer.input_layernorm), lambda x: tuple(p(x) for p in projections), inner(attention.o_proj),
                     inner(layer.post_attention_layernorm), lambda x: act(gate(x)) * up(x), inner(mlp.down_proj),
                     norm_heads=norms or None)

    return dict(blocks=[block(layer) for layer in core.layers], embed=inner(core.embed_tokens), norm=inner(core.norm),
                angles=_rotated(core, config), place=lambda x, positions: x, up_matrices=2)


def _gpt_neox(model, config) -> dict:
    core = model.gpt_neox

    def block(layer) -> Block:
        layer = inner(layer)
        attention, mlp = inner(layer.attention), inner(layer.mlp)
        fused, up, act = inner(attention.query_key_value), inner(mlp.dense_h_to_4h), _activation(mlp.act)

        def qkv(x):  # fused head by head
            by_head = fused(x).unflatten(-1, (config.num_attention_heads, 3, -1))
            return tuple(by_head[..., i, :].flatten(-2) for i in range(3))
        return Block(inner(layer.input_layernorm), qkv, inner(attention.dense), inner(layer.post_attention_layernorm),
                     lambda x: act(up(x)), inner(mlp.dense_4h_to_h), config.use_parallel_residual)

    return dict(blocks=[block(layer) for layer in core.layers], embed=inner(core.embed_in),
                norm=inner(core.final_layer_norm), angles=_rotated(core, config), place=lambda x, positions: x)


FAMILIES = {"gpt2": _gpt2, "gpt_neox": _gpt_neox, "llama": _llama, "qwen2": _llama, "qwen3": _llama, "mistral": _llama}
HEADS = ("lm_head", "embed_out", "score")


def take_apart(model) -> Anatomy | None:
    """The pieces of a model of a known causal family with a linear head, otherwise None."""
    plain = model.original_model if is_bridge(model) else model
    config = getattr(plain, "config", None)
    family = FAMILIES.get(getattr(config, "model_type", None))
    head = next((name for name in HEADS if hasattr(plain, name)), None)
    if family is None or head is None:
        return None
    heads = config.num_attention_heads
    return Anatomy(model, **family(plain, config), unembed=inner(getattr(plain, head)), heads=heads,
                   key_heads=getattr(config, "num_key_value_heads", None) or heads, classifies=head == "score")


# ---------------------------------------------------------------- when to trust the pieces

# For each model: version of its weights, greatest length at which the pieces were exact, least at which they were not.
_COMPARED: WeakKeyDictionary = WeakKeyDictionary()
OWN_HOOKS = ("transformer_lens.model_bridge.", "transformers.")  # these watch a library's own passes and change nothing


def hooked_by_others(model) -> bool:
    """True if somebody hooked a module: a pass through the pieces would not call these hooks."""
    hooks = (hook for m in model.modules() if m._forward_hooks or m._forward_pre_hooks
             for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values()))
    return any(not (getattr(hook, "__module__", None) or "").startswith(OWN_HOOKS) for hook in hooks)


def _readable(anatomy: Anatomy, prompts: Prompts) -> bool:
    """True if the prompts are padded on the right, and a classifier finds their ends where they are."""
    places, ends = torch.arange(prompts.mask.shape[1], device=prompts.mask.device), prompts.ends
    if not (prompts.mask == (places <= ends[:, None])).all():
        return False
    last = prompts.tokens[torch.arange(len(ends), device=ends.device), ends]
    padding = anatomy.model.config.pad_token_id if anatomy.classifies else None
    return padding is None or not (last == padding).any()


def anatomy_of(model, prompts: Prompts, equal: Callable[[Anatomy, Prompts], bool]) -> Anatomy | None:
    """The pieces of the model if a pass through them on these prompts is exact, otherwise None.

    `equal` runs the model and its pieces on these prompts; it is asked once for a model, its weights and a length.
    """
    if not isinstance(model, nn.Module) or hasattr(model, "address_of") or model.training or hooked_by_others(model):
        return None
    anatomy = take_apart(model)
    if anatomy is None or not _readable(anatomy, prompts):
        return None
    weights, width = sum(p._version for p in model.parameters()), prompts.tokens.shape[1]
    known, equal_to, other_from = _COMPARED.get(model, (None, 0, float("inf")))
    if known != weights:
        equal_to, other_from = 0, float("inf")
    if equal_to < width < other_from:
        equal_to, other_from = (width, other_from) if equal(anatomy, prompts) else (equal_to, width)
        _COMPARED[model] = weights, equal_to, other_from
    return anatomy if width <= equal_to else None

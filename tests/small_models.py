"""Small random models of every family, and prompts for them. What they should give is in `reference.py`.

Each is built once per process: `plain(name)` is the Hugging Face model as it is, `bridge(name)` what `load_model` makes of
the folder in which it was saved. Its tokenizer has one token for each word of two letters, " aa" to " ii".
"""
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from utils.models import CHECKPOINTS, Prompts, load_model

LAYERS, HEADS, WIDTH, VOCAB, CONTEXT = 3, 4, 32, 101, 24
SHIPPED = CHECKPOINTS / "course-gpt2"
COMMON = dict(num_hidden_layers=LAYERS, num_attention_heads=HEADS, hidden_size=WIDTH, vocab_size=VOCAB,
              intermediate_size=48, max_position_embeddings=CONTEXT)
SHARED_KEYS = COMMON | dict(num_key_value_heads=2)
WIDE_HEADS = SHARED_KEYS | dict(head_dim=12)  # four of them are wider than the stream
GPT2 = dict(n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, vocab_size=VOCAB, n_positions=CONTEXT, bos_token_id=0,
            eos_token_id=0)
OPT = dict(num_hidden_layers=LAYERS, num_attention_heads=HEADS, hidden_size=WIDTH, vocab_size=VOCAB, ffn_dim=48,
           max_position_embeddings=CONTEXT, pad_token_id=0)
BLOOM = dict(n_layer=LAYERS, n_head=HEADS, hidden_size=WIDTH, vocab_size=VOCAB)
WINDOW = dict(sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"])
# Granite multiplies the embedding, what each part adds, the scores of attention, and the logits.
GRANITE = dict(embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.5, logits_scaling=2.5)
ROBERTA = COMMON | dict(max_position_embeddings=CONTEXT + 1, pad_token_id=0)

# class in transformers, and what its configuration says
MODELS = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "llama": ("LlamaForCausalLM", SHARED_KEYS),
    "qwen2": ("Qwen2ForCausalLM", SHARED_KEYS),
    "qwen3": ("Qwen3ForCausalLM", SHARED_KEYS | dict(head_dim=8)),
    "mistral": ("MistralForCausalLM", SHARED_KEYS | dict(sliding_window=4)),
    "mixtral": ("MixtralForCausalLM", SHARED_KEYS | dict(num_local_experts=4)),
    "gemma": ("GemmaForCausalLM", WIDE_HEADS),
    "gemma2": ("Gemma2ForCausalLM", WIDE_HEADS | WINDOW | dict(query_pre_attn_scalar=5, attn_logit_softcapping=2.0,
                                                               final_logit_softcapping=4.0)),
    "gemma3": ("Gemma3ForCausalLM", WIDE_HEADS | WINDOW | dict(query_pre_attn_scalar=5)),
    "phi": ("PhiForCausalLM", COMMON),
    "gptj": ("GPTJForCausalLM", GPT2 | dict(rotary_dim=4, n_inner=48)),
    "gpt_neox": ("GPTNeoXForCausalLM", COMMON),
    "gpt_neox_sequential": ("GPTNeoXForCausalLM", COMMON | dict(use_parallel_residual=False)),
    "opt": ("OPTForCausalLM", OPT),
    "opt_post_norm": ("OPTForCausalLM", OPT | dict(do_layer_norm_before=False, word_embed_proj_dim=24)),  # as OPT-350m
    "bloom": ("BloomForCausalLM", BLOOM),
    "cohere": ("CohereForCausalLM", SHARED_KEYS | dict(logit_scale=0.3, eos_token_id=0)),
    "granite": ("GraniteForCausalLM", SHARED_KEYS | GRANITE),
    "stablelm": ("StableLmForCausalLM", SHARED_KEYS | dict(eos_token_id=0)),
    "olmo2": ("Olmo2ForCausalLM", SHARED_KEYS | dict(eos_token_id=0)),
    "bert": ("BertForMaskedLM", COMMON),
    "bert_classifier": ("BertForSequenceClassification", COMMON | dict(num_labels=3)),
    "bert_answerer": ("BertForQuestionAnswering", COMMON),
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "roberta_classifier": ("RobertaForSequenceClassification", ROBERTA | dict(num_labels=3)),
    "gpt2_classifier": ("GPT2ForSequenceClassification", GPT2 | dict(num_labels=5, pad_token_id=0)),
    "starcoder2": ("Starcoder2ForCausalLM", SHARED_KEYS | dict(eos_token_id=0)),
    "qwen3_moe": ("Qwen3MoeForCausalLM", SHARED_KEYS | dict(head_dim=8, num_experts=4, num_experts_per_tok=2)),
}
STRANGERS = ("starcoder2", "qwen3_moe")  # TransformerLens knows them, the course has no record of them
LANGUAGE_MODELS = ("gpt2", "llama", "qwen2", "gpt_neox")
LETTERS = "abcdefghi"
PIECES = ["<|endoftext|>", "Ġ", *LETTERS, *(f"Ġ{a}" for a in LETTERS), *(f"Ġ{a}{b}" for a in LETTERS for b in LETTERS)]
MERGES = [*(("Ġ", a) for a in LETTERS), *((f"Ġ{a}", b) for a in LETTERS for b in LETTERS)]


def build(name, **changes):
    """A new model, in evaluation mode and frozen, whose weights are so large that its outputs are far from uniform."""
    kind, options = MODELS[name]
    kind, generator = getattr(transformers, kind), torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = kind(kind.config_class(**options | changes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@lru_cache(maxsize=None)
def plain(name):
    """The model as it is."""
    return build(name)


@lru_cache(maxsize=None)
def _saved(name):
    """The temporary folder of a model; it goes with the process."""
    folder = tempfile.TemporaryDirectory()
    save_with_words(build(name), Path(folder.name, name))
    return folder


def folder_of(name):
    """The folder in which `plain(name)` is saved with its tokenizer."""
    return str(Path(_saved(name).name, name))


@lru_cache(maxsize=None)
def bridge(name):
    """The same weights as `plain(name)`, loaded from their folder as a TransformerBridge."""
    return load_model(folder_of(name))


@lru_cache(maxsize=None)
def tokenizer_of(name):
    return transformers.AutoTokenizer.from_pretrained(folder_of(name))


def save(model, folder):
    """A folder that `load_model` accepts: the model, and the tokenizer of the shipped model."""
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED / file, folder)


def save_with_words(model, folder):
    """A folder that `load_model` accepts: the model, and a tokenizer of as many tokens as the small models have."""
    model.save_pretrained(folder)
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(PIECES)}, MERGES))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), PIECES[0])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save_gpt2(folder):
    """A two-layer random GPT-2 that understands the words of the shipped tokenizer."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**GPT2 | dict(n_layer=2, vocab_size=2560))
    save(transformers.GPT2LMHeadModel(config), folder)
    return folder


def hooks_on(model):
    """Number of hooks registered anywhere in a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def random_prompts(lengths=(7, 7, 7), seed=0, pairs=False):
    """Random tokens, padded on the right to the longest; with `pairs`, token types that change after the second token."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[int(i < n) for i in range(max(lengths))] for n in lengths])
    tokens = torch.randint(1, VOCAB, mask.shape, generator=generator) * mask
    labels = tuple(tuple(map(str, row[:n].tolist())) for row, n in zip(tokens, lengths))
    types = mask * (torch.arange(mask.shape[1]) >= 2) if pairs else None
    return Prompts(tokens, mask, mask.sum(1) - 1, labels, types)

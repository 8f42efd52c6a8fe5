"""Names for activations, and where each of them lives in a model.

A `Site` says which activation, in which layer, at which positions, of which head or units. `address` finds the module
behind it, in a `TransformerBridge` or in a Hugging Face model of one of `FAMILIES` as it is.
"""
from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Iterable

import torch

from ..errors import CourseError
from ..models import is_bridge, shape_of
from .patterns import require_eager

KINDS = {
    "embed": "token embedding, before positions are added",
    "resid_pre": "residual stream entering a block",
    "resid_mid": "residual stream between attention and MLP",
    "resid_post": "residual stream leaving a block",
    "attn_out": "what attention adds to the stream",
    "mlp_out": "what the MLP adds to the stream",
    "z": "output of each head, before the output projection",
    "q": "queries of each head", "k": "keys of each head", "v": "values of each head",
    "mlp_post": "MLP neurons, after the activation function",
}
PATTERNS = {"pattern": "attention weights of each head, from the position (the query) to every key"}  # by hooks alone
HEAD_KINDS = ("z", "q", "k", "v", "pattern")
BRIDGE_NAMES = {"embed": "hook_embed", "z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v",
                "pattern": "attn.hook_pattern", "mlp_post": "mlp.hook_post"}


@dataclass(frozen=True)
class Each:
    """One position for each prompt: where the subject stands, where the prompt ends."""
    positions: tuple[int, ...]

    @staticmethod
    def of(positions: Iterable) -> Each:
        return Each(tuple(int(p) for p in positions))


@dataclass(frozen=True)
class Site:
    """An activation: what, in which layer, and optionally at which positions, head or units.

    position: an index (negative counts from the end of the padded row), a tuple of indices, `Each` (one per prompt) or
    None for all. head: for z, q, k, v, pattern. units: indices into the last axis (neurons, or columns of the stream).
    Of a pattern, [prompt, query, heads x keys], the position is the query; with a head, units are keys.
    In BERT the stream is normalised after every sum: resid_pre is the normalised output of the block below.
    """
    kind: str
    layer: int | None = None
    position: int | tuple[int, ...] | Each | None = None
    head: int | None = None
    units: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.kind not in KINDS | PATTERNS:
            raise CourseError(f"no activation is called {self.kind!r}; choose one of: {', '.join(KINDS | PATTERNS)}")
        if (self.layer is None) != (self.kind == "embed"):
            raise CourseError(f"{self.kind!r} " + ("belongs to no layer" if self.kind == "embed" else "needs a layer"))
        if self.head is not None and self.kind not in HEAD_KINDS:
            raise CourseError(f"{self.kind!r} is not divided into heads; those that are: {', '.join(HEAD_KINDS)}")
        if self.head is not None and self.units is not None and self.kind != "pattern":
            raise CourseError("a site names a head or units, not both")
        for name in ("layer", "position", "head", "units"):  # numbers of torch and numpy, lists and ranges are welcome
            value = getattr(self, name)
            if value is not None and not isinstance(value, Each):
                single = hasattr(value, "__index__") and not getattr(value, "ndim", 0)
                object.__setattr__(self, name, index(value) if single else Each.of(value).positions)

    @property
    def single(self) -> bool:
        """True if the site has one position in each prompt."""
        return isinstance(self.position, (int, Each))

    @property
    def whole(self) -> Site:
        """The same activation without a choice of positions, head or units."""
        return Site(self.kind, self.layer)


# ---------------------------------------------------------------- where it lives in a model

@dataclass(frozen=True)
class Address:
    """A module and whether the activation is its first input or its (first) output."""
    module: torch.nn.Module
    of_input: bool


# blocks, attention, its output projection, second norm, MLP, its output projection, token embedding
FAMILIES = {
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "ln_2", "mlp", "mlp.c_proj", "transformer.wte"),
    "llama": ("model.layers", "self_attn", "self_attn.o_proj", "post_attention_layernorm", "mlp", "mlp.down_proj",
              "model.embed_tokens"),
    "gpt_neox": ("gpt_neox.layers", "attention", "attention.dense", "post_attention_layernorm", "mlp",
                 "mlp.dense_4h_to_h", "gpt_neox.embed_in"),
    "bert": ("bert.encoder.layer", "attention.self", "attention.output.dense", None, "output.dense", "output.dense",
             "bert.embeddings.word_embeddings"),
}
FAMILIES |= {name: FAMILIES["llama"] for name in ("qwen2", "qwen3", "mistral", "gemma")}


def address(model, site: Site) -> Address:
    """Find the module behind a site. Raises CourseError for a family or an activation that is not supported.

    A model that knows its own modules says so with a method `address_of(site)`.
    """
    if hasattr(model, "address_of"):
        return model.address_of(site)
    if is_bridge(model):
        name = BRIDGE_NAMES.get(site.kind, f"hook_{site.kind}")
        name = name if site.layer is None else f"blocks.{site.layer}.{name}"
        hooks = model.hook_dict
        if name not in hooks:
            raise CourseError(f"this model has no {site.kind!r} ({(KINDS | PATTERNS)[site.kind]}) at layer {site.layer}")
        return Address(hooks[name], False)
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        raise CourseError(f"models of type {model.config.model_type!r} are not supported as they are; supported: "
                          f"{', '.join(FAMILIES)} (or load them with utils.models.load_model)")
    if site.kind == "pattern":
        require_eager(model)
        return Address(model, False)  # no module gives it, see patterns.py
    blocks, attention, projection, norm, mlp, down, embed = family
    if site.kind == "embed":
        return Address(model.get_submodule(embed), False)
    block = model.get_submodule(blocks)[site.layer]
    if site.kind in ("resid_pre", "resid_post"):
        return Address(block, site.kind == "resid_pre")
    places = {"attn_out": (projection if family == FAMILIES["bert"] else attention, False), "resid_mid": (norm, True),
              "mlp_out": (mlp, False), "z": (projection, True), "mlp_post": (down, True)}
    path, of_input = places.get(site.kind, (None, False))
    parallel = site.kind == "resid_mid" and getattr(model.config, "use_parallel_residual", False)
    if parallel:
        raise CourseError("this model runs attention and MLP side by side, so it has no 'resid_mid' between them")
    if path is None:
        raise CourseError(f"{site.kind!r} cannot be reached in a {model.config.model_type!r} model as it is; "
                          "load it with utils.models.load_model")
    return Address(block.get_submodule(path), of_input)


def is_causal(model) -> bool:
    """True if attention looks only back, so that a position cannot depend on later ones."""
    plain = model.original_model if is_bridge(model) else model
    return plain.config.model_type != "bert"


def marks_spans(model) -> bool:
    """True if the model scores every token as the first and as the last of an answer (question answering)."""
    return hasattr(model.original_model if is_bridge(model) else model, "qa_outputs")


def heads_at(model, kind: str) -> int:
    """Number of heads of one kind of activation (keys and values may be shared by groups of query heads)."""
    if kind in ("k", "v"):
        config = model.cfg if is_bridge(model) else model.config
        shared = getattr(config, "n_key_value_heads", None) or getattr(config, "num_key_value_heads", None)
        return shared or shape_of(model)[1]
    return shape_of(model)[1]


def _as_tuple(position) -> tuple[int, ...]:
    if position is None:
        return ()
    return position.positions if isinstance(position, Each) else (position,) if isinstance(position, int) else position


def validate(model, site: Site, tokens: torch.Tensor | None = None) -> None:
    """Raise CourseError, with the range, for a layer, head or position that the model or the prompts do not have."""
    layers, heads = shape_of(model)[0], heads_at(model, site.kind)
    if site.layer is not None and not 0 <= site.layer < layers:
        raise CourseError(f"layer {site.layer} is out of range: this model has layers 0 to {layers - 1}")
    if site.head is not None and not 0 <= site.head < heads:
        raise CourseError(f"head {site.head} is out of range: each layer has heads 0 to {heads - 1} of {site.kind!r}")
    if tokens is None:
        return
    prompts, width = tokens.shape
    for position in _as_tuple(site.position):
        if not -width <= position < width:
            raise CourseError(f"position {position} is out of range: the prompts have positions 0 to {width - 1}")
    if isinstance(site.position, Each) and len(site.position.positions) != prompts:
        raise CourseError(f"Each names {len(site.position.positions)} positions for {prompts} prompts: give one for "
                          "each")


def positions_of(site: Site, width: int, prompts: torch.Tensor) -> torch.Tensor:
    """The positions of a site in each row, [row, chosen position]; `prompts` says which prompt each row is."""
    if isinstance(site.position, Each):
        return torch.tensor(site.position.positions, device=prompts.device)[prompts, None]
    chosen = range(width) if site.position is None else _as_tuple(site.position)
    return torch.tensor(list(chosen), device=prompts.device).expand(len(prompts), -1)


def columns_of(model, site: Site, width: int):
    """The part of the last axis that a site names."""
    if site.head is not None:
        size = width // heads_at(model, site.kind)
        if site.units is None:
            return slice(site.head * size, (site.head + 1) * size)
        return [site.head * size + _key(key, size) for key in site.units]
    for unit in site.units or ():
        if not -width <= unit < width:
            raise CourseError(f"unit {unit} is out of range: {site.kind!r} has units 0 to {width - 1}")
    return slice(None) if site.units is None else list(site.units)


def _key(key: int, keys: int) -> int:
    if not -keys <= key < keys:
        raise CourseError(f"key {key} is out of range: the pattern has keys 0 to {keys - 1}")
    return key % keys

"""Names for activations, and where each of them lives in a model.

A `Site` says which activation, in which layer, at which positions, of which head or units. `address` finds the module
behind it, in a `TransformerBridge` or in a Hugging Face model as it is; `families` says where each family keeps what.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable

import torch

from ..errors import CourseError, warn, whole_number, whole_numbers
from ..models import inner, is_bridge, shape_of
from .families import Family, block_of, family_of, is_parallel, matrix_of, module_at, plain_of, require_family, setting
from .patterns import require_eager

_SAID: set[str] = set()  # families without a record of which a reader was told
ACTIVATIONS = {
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
QKV = ("q", "k", "v")
BRIDGE_NAMES = {kind: f"attn.hook_{kind}" for kind in (*QKV, "pattern")}  # a bridge may take a fused projection apart
BRIDGE_ONLY = {"embed": "hook_embed", "z": "attn.hook_z", "mlp_post": "mlp.hook_post"}  # asked where there is no record


@dataclass(frozen=True)
class Each:
    """One position for each prompt: where the subject stands, where the prompt ends."""
    positions: tuple[int, ...]

    @staticmethod
    def of(positions: Iterable) -> Each:
        return Each(tuple(whole_numbers(positions, "positions")))


@dataclass(frozen=True)
class Site:
    """An activation: what, in which layer, and optionally at which positions, head or units.

    position: an index (negative counts from the end, where all prompts have one length), several of them (also as a mask
    of True and False), `Each` (one per prompt) or None for all. head: for z, q, k, v, pattern. units: indices into the last
    axis (neurons, or columns of the stream), or such a mask.
    Of a pattern, [prompt, query, heads x keys], the position is the query; with a head, units are keys.
    In BERT the stream is normalised after every sum: resid_pre is the normalised output of the block below.
    """
    kind: str
    layer: int | None = None
    position: int | tuple[int, ...] | Each | None = None
    head: int | None = None
    units: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.kind not in ACTIVATIONS | PATTERNS:
            raise CourseError(f"no activation is called {self.kind!r}; choose one of: {', '.join(ACTIVATIONS | PATTERNS)}")
        if (self.layer is None) != (self.kind == "embed"):
            raise CourseError(f"{self.kind!r} " + ("belongs to no layer" if self.kind == "embed" else "needs a layer"))
        if self.head is not None and self.kind not in HEAD_KINDS:
            raise CourseError(f"{self.kind!r} is not divided into heads; those that are: {', '.join(HEAD_KINDS)}")
        if self.head is not None and self.units is not None and self.kind != "pattern":
            raise CourseError("a site names a head or units, not both")
        for name in ("layer", "position", "head", "units"):  # numbers of torch and numpy, lists and masks are welcome
            value = getattr(self, name)
            if value is not None and not isinstance(value, Each):
                several = name in ("position", "units") and isinstance(value, Iterable) and getattr(value, "ndim", 1)
                value = tuple(whole_numbers(value, name)) if several else whole_number(value, name)
                object.__setattr__(self, name, value)

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
    """A module, and how the activation stands in its first input or its (first) output.

    scale: what the module gives is multiplied by it on its way into the stream. third: of a matrix that holds queries,
    keys and values (0, 1, 2), which third of all columns or, where `heads` is given, of each head's.
    """
    module: torch.nn.Module
    of_input: bool
    scale: float = 1.0
    third: int | None = None
    heads: int | None = None

    def see(self, raw: torch.Tensor) -> torch.Tensor:
        """The activation, [row, position, width], in what the module takes or gives."""
        part = raw if self.third is None else self._third(raw).flatten(2)
        return part if self.scale == 1 else part * self.scale

    def put(self, raw: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
        """What the module should take or give instead, so that this is the activation."""
        new = activation if self.scale == 1 else activation / self.scale
        if self.third is None:
            return new
        raw = raw.clone()
        self._third(raw).copy_(new.view(self._third(raw).shape))
        return raw

    def _third(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.unflatten(-1, (self.heads or 1, 3, -1))[..., self.third, :]


def address(model, site: Site) -> Address:
    """Find the module behind a site. Raises CourseError for a family or an activation that is not supported.

    A model that knows its own modules says so with a method `address_of(site)`. A bridge of an unknown family is asked
    for its own hooks.
    """
    if hasattr(model, "address_of"):
        return model.address_of(site)
    family = family_of(model)
    if is_bridge(model) and family is None:
        _say_once(plain_of(model).config.model_type)
    if is_bridge(model) and (family is None or site.kind in BRIDGE_NAMES):
        return Address(_bridge_hook(model, site), False)
    return _by_record(model, require_family(model), site)


def _say_once(kind: str) -> None:
    if kind not in _SAID:
        _SAID.add(kind)
        warn(f"the course has no record of the family {kind!r}: its activations are what the hooks of the bridge give, every "
             "run is a whole pass, and readout and attribution are refused")


def _bridge_hook(model, site: Site) -> torch.nn.Module:
    if site.kind in ("resid_mid", "mlp_post"):  # bridges give these names to different things
        raise CourseError(f"{site.kind!r} is not known in a {plain_of(model).config.model_type!r} model, of whose family the "
                          "course has no record: take resid_pre, resid_post, attn_out, mlp_out or z")
    name = BRIDGE_NAMES.get(site.kind) or BRIDGE_ONLY.get(site.kind, f"hook_{site.kind}")
    name = name if site.layer is None else f"blocks.{site.layer}.{name}"
    hooks = model.hook_dict
    if name not in hooks:
        raise CourseError(f"this model has no {site.kind!r} ({(ACTIVATIONS | PATTERNS)[site.kind]}) at layer {site.layer}")
    return hooks[name]


def _by_record(model, family: Family, site: Site) -> Address:
    """The place that the family's record gives for a site."""
    if site.kind == "pattern":
        require_eager(model)
        return Address(model, False)  # no module gives it, see patterns.py
    if site.kind == "embed":
        return Address(module_at(plain_of(model), family.embed), False, setting(model, family.embed_scale, 1.0))
    block = block_of(model, family, site.layer)
    if site.kind in ("resid_pre", "resid_post"):
        return Address(block, site.kind == "resid_pre")
    if site.kind in QKV:
        return _in_projection(model, family, block, QKV.index(site.kind))
    place = {"attn_out": family.attn_out, "mlp_out": family.mlp_out, "resid_mid": family.mid, "z": f">{family.out}",
             "mlp_post": family.down and f">{family.down}"}[site.kind]
    if site.kind == "resid_mid" and is_parallel(family, plain_of(model).config):
        raise CourseError("this model runs attention and MLP side by side, so it has no 'resid_mid' between them")
    if place is None:
        raise CourseError(f"the experts of this model share the work of an MLP, so it has no {site.kind!r} that all "
                          "tokens pass; 'mlp_out' is what they add together")
    scale = setting(model, family.residual_scale, 1.0) if site.kind in ("attn_out", "mlp_out") else 1.0
    return Address(module_at(block, place.lstrip(">")), place.startswith(">"), scale)


def _in_projection(model, family: Family, block, number: int) -> Address:
    if len(family.qkv) == 3:
        return Address(module_at(block, family.qkv[number]), False)
    return Address(module_at(block, family.qkv[0]), False, third=number,
                   heads=shape_of(model)[1] if family.by_head else None)


def marks_spans(model) -> bool:
    """True if the model scores every token as the first and as the last of an answer (question answering)."""
    return hasattr(plain_of(model), "qa_outputs")


def heads_at(model, kind: str) -> int:
    """Number of heads of one kind of activation (keys and values may be shared by groups of query heads)."""
    if kind in ("k", "v"):
        config = model.cfg if is_bridge(model) else model.config
        shared = getattr(config, "n_key_value_heads", None) or getattr(config, "num_key_value_heads", None)
        return shared or shape_of(model)[1]
    return shape_of(model)[1]


def width_of(model, kind: str) -> int:
    """Length of the last axis of an activation that is not divided into heads. Raises CourseError as `address` does."""
    family = family_of(model)
    if family is None:
        config = model.cfg if is_bridge(model) else model.config
        return getattr(config, "d_mlp" if kind == "mlp_post" else "d_model", None) or config.hidden_size
    address(model, Site(kind, None if kind == "embed" else 0))  # refuses what this family does not have
    if kind == "embed":
        return inner(module_at(plain_of(model), family.embed)).weight.shape[1]
    inputs, outputs = matrix_of(module_at(block_of(model, family, 0), family.down or family.out)).shape
    return inputs if kind == "mlp_post" else outputs


def as_tuple(position) -> tuple[int, ...]:
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
    for position in as_tuple(site.position):
        if not -width <= position < width:
            raise CourseError(f"position {position} is out of range: the prompts have positions 0 to {width - 1}")
    if isinstance(site.position, Each) and len(site.position.positions) != prompts:
        raise CourseError(f"Each names {len(site.position.positions)} positions for {prompts} prompts: give one for "
                          "each")


def positions_of(site: Site, width: int, prompts: torch.Tensor) -> torch.Tensor:
    """The positions of a site in each row, [row, chosen position]; `prompts` says which prompt each row is."""
    if isinstance(site.position, Each):
        return torch.tensor(site.position.positions, device=prompts.device)[prompts, None]
    chosen = range(width) if site.position is None else as_tuple(site.position)
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

"""A transformer taken apart: the pieces of each family, so that a pass can stop between any two of them.

`anatomy_of` gives the pieces of a causal model, or None where only the model's own forward pass is to be trusted: an
unknown or bidirectional family, training mode, hooks that somebody left on it, or pieces that, put together again, do
not give the logits of the model itself.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterable, Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import nn

from ..models import Prompts, inner, modules_of
from .families import Family, block_of, family_of, is_parallel, module_at, plain_of, setting
from .readout import Readout, readout_of
from .trust import version_of

Tensor = torch.Tensor


@dataclass(frozen=True)
class Block:
    """One layer. `qkv` gives queries, keys and values, each [row, position, head x size], before any norm or rotation.

    norm1, norm2: what attention and MLP read of the stream. out, down: what they add to it.
    """
    norm1: Callable[[Tensor], Tensor]
    qkv: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    out: Callable[[Tensor], Tensor]
    norm2: Callable[[Tensor], Tensor]
    up: Callable[[Tensor], Tensor]
    down: Callable[[Tensor], Tensor]
    parallel: bool                          # attention and MLP read the same stream
    head_norms: tuple[nn.Module, ...]       # of queries and of keys, before any rotation
    scaling: float                          # of the product of query and key


@dataclass(frozen=True)
class Anatomy:
    """A causal model in pieces. `place` turns token embeddings into the stream that enters block 0."""
    model: object
    blocks: list[Block]
    embed: Callable[[Tensor], Tensor]
    place: Callable[[Tensor, Int[Tensor, "position"]], Tensor]
    angles: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None  # cosine and sine of rotary positions
    readout: Readout
    heads: int
    key_heads: int
    classifies: bool
    up_matrices: int                        # two where neurons have a gate


# ---------------------------------------------------------------- from the record of a family to its pieces

def _same(x: Tensor) -> Tensor:
    return x


def _one_after_the_other(parts: list[Callable], factor: float = 1.0) -> Callable[[Tensor], Tensor]:
    """What comes out of these modules in turn, times a factor; a single module as it is."""
    if not parts:
        return _same
    if len(parts) == 1 and factor == 1:
        return parts[0]

    def passed(x: Tensor) -> Tensor:
        for part in parts:
            x = part(x)
        return x * factor if factor != 1 else x
    return passed


def _activation(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """GPT-2's GELU in one step instead of eight; equal to 1e-6."""
    return _fast_gelu if type(module).__name__ == "NewGELUActivation" else module


def _fast_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _neurons(into: list[nn.Module], activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """From what the MLP reads to its neurons, after the activation function; the first of two matrices is the gate."""
    if len(into) == 1:
        [up] = into
        return lambda x: activation(up(x))
    gate, up = into
    return lambda x: activation(gate(x)) * up(x)


def _projections(into: list[nn.Module], heads: int, by_head: bool) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values, from three matrices or from one that holds all."""
    if len(into) == 3:
        return lambda x: tuple(part(x) for part in into)
    [fused] = into
    if not by_head:
        return lambda x: fused(x).chunk(3, -1)

    def apart(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        each = fused(x).unflatten(-1, (heads, 3, -1))
        return tuple(each[..., i, :].flatten(-2) for i in range(3))
    return apart


def _block(model, family: Family, layer: int) -> Block:
    whole, config = block_of(model, family, layer), plain_of(model).config

    def found(*paths: str | None) -> list[nn.Module]:
        there = [module_at(whole, path) for path in paths if path]
        return [inner(module) for module in there if module is not None]
    factor, heads = setting(model, family.residual_scale, 1.0), config.num_attention_heads
    norm1, parallel = found(family.norm1), is_parallel(family, config)
    norm2 = found(family.norm2) or (norm1 if parallel else [])
    attention = inner(module_at(whole, family.out.split(".")[0]))
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Block(
        norm1=_one_after_the_other(norm1), norm2=_one_after_the_other(norm2), parallel=parallel,
        qkv=_projections(found(*family.qkv), heads, family.by_head), head_norms=tuple(found(*family.head_norms)),
        out=_one_after_the_other(found(family.out, family.after_attention), factor),
        up=_neurons(found(*family.up), _activation(*found(family.activation))),
        down=_one_after_the_other(found(family.down, family.after_mlp), factor),
        scaling=getattr(attention, "scaling", size ** -0.5))


def _embedding(model, family: Family) -> Callable[[Tensor], Tensor]:
    return _one_after_the_other([inner(module_at(plain_of(model), family.embed))], setting(model, family.embed_scale, 1.0))


def _placed(model, family: Family) -> Callable[[Tensor, Tensor], Tensor]:
    if family.positions is None:
        return lambda x, positions: x
    places = inner(module_at(plain_of(model), family.positions))
    return lambda x, positions: x + places(positions)


def _rotated(model, family: Family) -> Callable | None:
    if family.rotary is None:
        return None
    rotary = inner(module_at(plain_of(model), family.rotary))
    return lambda x, positions: rotary(x, positions[None])


def take_apart(model) -> Anatomy | None:
    """The pieces of a model of a known causal family with a linear head, otherwise None."""
    family, plain = family_of(model), plain_of(model)
    readout = readout_of(model) if family is not None and family.in_pieces else None
    if readout is None:
        return None
    config = plain.config
    heads, layers = config.num_attention_heads, range(config.num_hidden_layers)
    return Anatomy(
        model, [_block(model, family, layer) for layer in layers], embed=_embedding(model, family),
        place=_placed(model, family), angles=_rotated(model, family), readout=readout, heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads, classifies=hasattr(plain, "score"),
        up_matrices=len(family.up))


# ---------------------------------------------------------------- when to trust the pieces

# For each model: version of its weights, greatest length at which the pieces were exact, least at which they were not.
_COMPARED: WeakKeyDictionary = WeakKeyDictionary()
OWN_HOOKS = ("transformer_lens.model_bridge.", "transformers.")  # these watch a library's own passes and change nothing


def is_of_a_library(hook: Callable) -> bool:
    """True for a hook with which a library watches its own passes; some are hung up at a model's first pass, for good."""
    return (getattr(hook, "__module__", None) or "").startswith(OWN_HOOKS)


def hooked_by_others(modules: Iterable[nn.Module]) -> bool:
    """True if somebody hooked a module: a pass through the pieces would not call these hooks."""
    hooks = (hook for m in modules if m._forward_hooks or m._forward_pre_hooks
             for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values()))
    return not all(map(is_of_a_library, hooks))


def _readable(anatomy: Anatomy, prompts: Prompts) -> bool:
    """True if the prompts are padded on the right, and a classifier finds their ends where they are."""
    places, ends = torch.arange(prompts.mask.shape[1], device=prompts.mask.device), prompts.ends
    if not (prompts.mask == (places <= ends[:, None])).all():
        return False
    last = prompts.tokens[torch.arange(len(ends), device=ends.device), ends]
    padding = anatomy.model.config.pad_token_id if anatomy.classifies else None
    return padding is None or not (last == padding).any()


def anatomy_of(model, prompts: Prompts, equal: Callable[[Anatomy, Prompts], bool],
               modules: Sequence[nn.Module] | None = None) -> Anatomy | None:
    """The pieces of the model if a pass through them on these prompts is exact, otherwise None.

    `equal` runs the model and its pieces on these prompts; it is asked once for a model, its weights and a length.
    modules: all of the model, if the caller has walked it (that takes as long as a pass of a short prompt).
    """
    modules = modules or modules_of(model)
    if not isinstance(model, nn.Module) or hasattr(model, "address_of") or model.training or hooked_by_others(modules):
        return None
    anatomy = take_apart(model)
    if anatomy is None or not _readable(anatomy, prompts):
        return None
    weights, width = version_of(modules), prompts.tokens.shape[1]
    known, equal_to, other_from = _COMPARED.get(model, (None, 0, float("inf")))
    if known != weights:
        equal_to, other_from = 0, float("inf")
    if equal_to < width < other_from:
        equal_to, other_from = (width, other_from) if equal(anatomy, prompts) else (equal_to, width)
        _COMPARED[model] = weights, equal_to, other_from
    return anatomy if width <= equal_to else None

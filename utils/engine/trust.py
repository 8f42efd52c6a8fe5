"""What a record claims of a model, compared with the model itself on first use.

Two passes of one short prompt say whether positions see later ones, whether the stream is the sum of what is added to
it, and whether the readout gives the model's own logits. They are made once for a model and its weights.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import nn

from ..errors import CourseError
from ..models import Prompts, inner, modules_of, shape_of
from . import hook_path
from .families import family_of, plain_of, require_family, setting
from .preconditions import require_usable
from .readout import Readout, readout_of
from .sites import Site

CLOSE = 1e-4     # of the range: single precision through all layers stays well below
TOKENS = 4


@dataclass(frozen=True)
class Facts:
    """causal: changing the last token changes nothing at position 0. sums: each state of the stream is the one before and
    what attention and MLP added. readout_error: how far the readout is from the logits, as a share of their range; None
    without a readout."""
    causal: bool
    sums: bool
    readout_error: float | None


_KNOWN: WeakKeyDictionary = WeakKeyDictionary()  # model: (version of its weights, facts)


def version_of(modules: Iterable[nn.Module]) -> int:
    """A number that changes when weights are written to in place, or exchanged for others."""
    weights = (p for module in modules for p in module._parameters.values() if p is not None)
    return hash(tuple((id(p), p._version) for p in weights))


def close(one: torch.Tensor, other: torch.Tensor, share: float = CLOSE) -> bool:
    """True if both are equal up to a share of the other's range."""
    return _distance(one, other) <= share


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference as a share of the other's range."""
    span = (other.max() - other.min()).clamp_min(1e-12)
    return ((one - other).abs().max() / span).item()


@torch.no_grad()
def facts_of(model) -> Facts:
    """The facts of this model with these weights; measured when they are first asked for."""
    version, known = version_of(modules_of(model)), _KNOWN.get(model, (None, None))
    if known[0] != version:
        known = _KNOWN[model] = version, _measure(model)
    return known[1]


def _measure(model) -> Facts:
    require_usable(modules_of(model))
    prompts, layers = two_prompts(model), shape_of(model)[0]
    states = [Site("resid_pre", layer) for layer in range(layers)] + [Site("resid_post", layers - 1)]
    family = family_of(model)
    added = [] if family is None else [Site(kind, layer) for layer in range(layers) for kind in ("attn_out", "mlp_out")]
    logits, found = hook_path.read(model, prompts, [*states, *added], [], False)
    require_finite(logits)
    stream = [found[site] for site in states]
    causal = close(stream[-1][1, 0], stream[-1][0, 0])
    sums = bool(added) and all(
        close(stream[layer] + found[Site("attn_out", layer)] + found[Site("mlp_out", layer)], stream[layer + 1])
        for layer in range(layers))
    readout = readout_of(model)
    if readout is None:
        return Facts(causal, sums, None)
    last = stream[-1] if logits.dim() == 3 else stream[-1][:, -1]
    return Facts(causal, sums, _distance(readout.logits(last), logits))


def require_finite(logits: torch.Tensor) -> None:
    """Raise CourseError for logits that are NaN or infinite."""
    if not logits.isfinite().all():
        raise CourseError("this model gives logits that are NaN or infinite: its weights are damaged, load them again")


def two_prompts(model) -> Prompts:
    """Two prompts that differ in their last token only."""
    size = getattr(getattr(plain_of(model), "config", None), "vocab_size", 10)
    tokens = torch.tensor([[(i + 2) * size // (TOKENS + 4) for i in range(TOKENS)]] * 2)
    tokens[1, -1] = tokens[0, 0]
    tokens = tokens.to(next(model.parameters()).device)
    return Prompts(tokens, torch.ones_like(tokens), torch.full_like(tokens[:, 0], TOKENS - 1), ())


@torch.no_grad()
def token_embeddings(model) -> Float[torch.Tensor, "token width"]:
    """The embedding of every token as it stands at the site "embed", in whose unit noise is written there.

    Raises CourseError if a pass through the model has other values there.
    """
    module, family = inner(plain_of(model).get_input_embeddings()), family_of(model)
    device, size = next(model.parameters()).device, module.weight.shape[0]
    vectors = module(torch.arange(size, device=device)[None])[0] * setting(model, family and family.embed_scale, 1.0)
    prompts, site = two_prompts(model), Site("embed")
    there = hook_path.read(model, prompts, [site], [], False)[1][site]
    if there.shape[-1] != vectors.shape[-1] or not close(vectors[prompts.tokens], there):
        raise CourseError("the embeddings of this model are changed on their way to the place where noise is written, so "
                          "the level of the noise has no unit there: give noise= yourself")
    return vectors


def is_causal(model) -> bool:
    """True if attention looks only back, so that a position cannot depend on later ones."""
    return facts_of(model).causal


def trusted_readout(model) -> Readout:
    """The readout of this model. Raises CourseError if there is none, or if it does not give the model's own logits."""
    readout = readout_of(model)
    if readout is None:
        raise CourseError("the stream of this model cannot be decoded: it has no unembedding that reads its last state "
                          "(a language model of a known family has one)")
    error = facts_of(model).readout_error
    if not error <= CLOSE:
        raise CourseError(f"the stream of this model cannot be decoded: its last state, through final norm and "
                          f"unembedding, is {error:.2g} of their range off the model's own logits")
    return readout


def require_single_precision(model) -> None:
    """Raise CourseError for weights in half precision, whose rounding is larger than what the parts are held to."""
    kind = next(model.parameters()).dtype
    if kind in (torch.float16, torch.bfloat16):
        raise CourseError(f"in {str(kind).removeprefix('torch.')} the parts of a model do not sum to its whole, they are rounded "
                          "too coarsely: load it with dtype=torch.float32")


def require_sum(model) -> None:
    """Raise CourseError if the stream is not the sum of what attention and MLP add to it."""
    require_family(model)
    require_single_precision(model)
    if not facts_of(model).sums:
        raise CourseError("the stream of this model is not the sum of what attention and MLP add to it (it is normalised "
                          "on the way), so no part has a share of its own in the logits")

"""Attention patterns, [prompt, head, query, key], as the engine sees activations: [prompt, query, heads x keys].

A bridge has a hook for its patterns. A plain Hugging Face model computes them inside a function of its modelling file, which
it looks up under the name of its attention implementation: while a pattern is read or written, "eager" is looked up here.
"""
from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Callable

import torch
from jaxtyping import Float

from ..errors import CourseError
from ..models import is_bridge

Change = Callable[[torch.Tensor], torch.Tensor | None]
_CHANGES: dict[int, list[Change]] = {}      # what is done to the pattern of a module of attention, by the id of the module


def by_position(raw: torch.Tensor, kind: str) -> torch.Tensor:
    """An activation with its positions on the second axis; of a pattern the positions are its queries."""
    return raw.transpose(1, 2) if kind == "pattern" else raw


def as_it_was(activation: Float[torch.Tensor, "row position width"], raw: torch.Tensor, kind: str) -> torch.Tensor:
    """The inverse of `by_position` and of flattening what follows, for an activation that has the shape of `raw`."""
    if kind == "pattern":
        return activation.unflatten(2, (raw.shape[1], -1)).transpose(1, 2)
    return activation.view_as(raw)


def is_plain_pattern(model, kind: str) -> bool:
    """True if no module gives this activation, so that `catch` has to fetch it."""
    return kind == "pattern" and not is_bridge(model)


def require_eager(model) -> None:
    """Raise CourseError for a plain model whose attention does not compute patterns."""
    if model.config._attn_implementation != "eager":
        raise CourseError("this model never computes its attention patterns: load it with attn_implementation=\"eager\", or "
                          "with utils.models.load_model")


def catch(stack: ExitStack, model, layer: int, change: Change) -> None:
    """Call `change` on the pattern of a layer of a plain model whenever it is computed; None leaves it as it is."""
    modules = [m for m in model.modules() if getattr(m, "layer_idx", None) == layer and _eager_function(m) is not None]
    if not modules:
        raise CourseError(f"the attention pattern of a {type(model).__name__} cannot be reached as it is; load it with "
                          "utils.models.load_model")
    for module in modules:
        changes = _CHANGES.setdefault(id(module), [])
        changes.append(change)
        stack.callback(_forget, id(module), change)
    _interfaces_answer_here(stack)


def _interfaces_answer_here(stack: ExitStack) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as interface
    if "eager" not in interface:
        interface["eager"] = _attend
        stack.callback(interface.__delitem__, "eager")


def _forget(module: int, change: Change) -> None:
    _CHANGES[module].remove(change)
    if not _CHANGES[module]:
        del _CHANGES[module]


def _eager_function(module: torch.nn.Module) -> Callable | None:
    """The function that computes attention eagerly in the file in which the module's class stands."""
    files = (sys.modules.get(cls.__module__) for cls in type(module).__mro__)
    return next((file.eager_attention_forward for file in files if hasattr(file, "eager_attention_forward")), None)


def _attend(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
            **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's own eager attention; where a pattern was changed, its output is the changed one times the values."""
    output, pattern = _eager_function(module)(module, query, key, value, mask, **options)
    values = for_each_query_head(value, pattern.shape[1], 1)
    for change in _CHANGES.get(id(module), ()):
        new = change(pattern)
        if new is None:
            continue
        if not torch.allclose((pattern @ values).transpose(1, 2), output, atol=1e-5 * float(output.abs().max())):
            raise CourseError("the attention of this model is not its pattern times its values, so a changed pattern has no "
                              "meaning here")
        pattern, output = new, (new @ values).transpose(1, 2).contiguous()
    return output, pattern


def for_each_query_head(values: torch.Tensor, heads: int, axis: int) -> torch.Tensor:
    """`values` with one entry for each of `heads` query heads along `axis`: what a group shares is repeated.

    Neighbouring query heads share, as in the models themselves. Raises CourseError if they cannot be shared out evenly.
    """
    shared = values.shape[axis]
    if not shared or heads % shared:
        raise CourseError(f"{heads} query heads cannot share {shared} key and value heads evenly: choose the axis of the "
                          "heads")
    return values.repeat_interleave(heads // shared, axis)

"""What each head adds to the residual stream by itself."""
from __future__ import annotations

from typing import Iterable

import torch
from jaxtyping import Float

from ..errors import CourseError
from ..models import Prompts, is_bridge, shape_of
from .interventions import read
from .places import Places, places
from .sites import Site, address


@torch.no_grad()
def head_results(model, prompts: Prompts, layers: Iterable[int] | None = None, *,
                 positions: Places = "all") -> Float[torch.Tensor, "layer head prompt *position width"]:
    """What each head adds to the stream by itself: its output times its part of the output projection (`result`).

    With the bias of the projection the heads of a layer sum to its attn_out. layers: None for all of them. A single position
    drops its axis. Memory goes with everything asked for: choose layers or positions of a large model.
    Raises CourseError where attention adds something else than that sum, as with a norm behind it.
    """
    (depth, heads), where = shape_of(model), places(prompts, positions)
    layers, results = range(depth) if layers is None else list(layers), []
    sites = {layer: (Site("z", layer, where), Site("attn_out", layer, where)) for layer in layers}
    _, found = read(model, prompts, [site for both in sites.values() for site in both], end_only=True)
    for layer, (z, attn_out) in sites.items():
        weight, bias = _output_projection(model, layer)
        by_head = torch.einsum("...hs,hsw->h...w", found[z].unflatten(-1, (heads, -1)), weight.unflatten(0, (heads, -1)))
        error = (by_head.sum(0) + bias - found[attn_out]).abs().max()
        if not error <= 1e-4 * found[attn_out].abs().max():
            raise CourseError(f"what attention of layer {layer} adds is not the sum of its heads in this model, so heads have "
                              "no result of their own")
        results.append(by_head)
    return torch.stack(results)


def _output_projection(model, layer: int) -> tuple[Float[torch.Tensor, "inner width"], torch.Tensor | float]:
    """Weight and bias that act on the outputs of all heads, from the right."""
    if is_bridge(model):
        attention = model.blocks[layer].attn
        weight, bias = attention.W_O.flatten(0, 1), getattr(attention, "b_O", None)
    else:
        module = address(model, Site("z", layer)).module
        weight, bias = module.weight.T if isinstance(module, torch.nn.Linear) else module.weight, module.bias
    return weight, 0.0 if bias is None else bias

"""What each head adds to the residual stream by itself."""
from __future__ import annotations

from typing import Iterable

import torch
from jaxtyping import Float

from ..errors import CourseError
from ..models import Prompts, shape_of
from .interventions import read
from .places import Places, places
from .readout import heads_into_stream
from .sites import Site
from .trust import close, require_single_precision


@torch.no_grad()
def head_results(model, prompts: Prompts, layers: Iterable[int] | None = None, *,
                 positions: Places = "all") -> Float[torch.Tensor, "layer head prompt *position width"]:
    """What each head adds to the stream by itself: its output times its part of the output projection (`result`).

    With the bias of the projection the heads of a layer sum to its attn_out; a norm behind attention is held at its value
    in this run. layers: None for all of them. A single position drops its axis. Memory goes with everything asked for:
    choose layers or positions of a large model. Raises CourseError where attention adds something else than that sum.
    """
    require_single_precision(model)
    (depth, heads), where = shape_of(model), places(prompts, positions)
    layers, results = range(depth) if layers is None else list(layers), []
    sites = {layer: (Site("z", layer, where), Site("attn_out", layer, where)) for layer in layers}
    _, found = read(model, prompts, [site for both in sites.values() for site in both], end_only=True)
    for layer, (z, attn_out) in sites.items():
        by_head, constant = heads_into_stream(model, layer, found[z])
        if not close(by_head.sum(0) + constant, found[attn_out]):
            raise CourseError(f"the heads of layer {layer} do not sum to what its attention adds to the stream: this model "
                              "does more between its heads and the stream than the course knows of")
        results.append(by_head)
    return torch.stack(results)

"""TransformerLens's own search, `fit_das`, on whatever model a side loaded."""
from __future__ import annotations

from typing import Callable

import numpy as np
import torch
from transformer_lens.tools.analysis import (SubspaceInterchange, collect_activations, fit_das, intervened_logits)

from .rows import swaps

PACKAGES = ("transformer_lens", "torch", "transformers", "numpy")


def search(model, graph, layer, position, rank, rows, epochs, batch_size) -> Callable[[], dict[str, np.ndarray]]:
    """A whole search at one position; the held-out IIA is measured when the clock has stopped.

    `model.name_of(layer)` is a hook point, `model.classes(tokens)` gives the logits of the 28 classes, and `model.sums`
    holds the tokens of all 1,000 sums in order.
    """
    _, train, held_out = swaps(graph, rows)
    encoded = lambda inputs: model.sums[(inputs - 1) @ torch.tensor([100, 10, 1])]
    places = lambda data: torch.full((len(data),), position)
    name, at = model.name_of(layer), places(train)
    found = fit_das(model, name, encoded(train.base), encoded(train.sources["P"]), train.labels, model.classes, rank=rank,
                    base_positions=at, source_positions=at, epochs=epochs, batch_size=batch_size)

    def score() -> dict[str, np.ndarray]:
        at = places(held_out)
        sources = collect_activations(model, name, encoded(held_out.sources["P"]), model.classes, positions=at)
        logits = intervened_logits(model, name, SubspaceInterchange(found.basis), encoded(held_out.base), sources,
                                   model.classes, positions=at)
        return {"iia": (logits.argmax(-1) == held_out.labels).double().mean().numpy()}
    return score

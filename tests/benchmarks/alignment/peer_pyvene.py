"""pyvene on the Hugging Face model, as its tutorials do. Runs in the peers' own environment."""
from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyvene
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from .draws import POSITIONS, draw

PACKAGES = ("pyvene", "torch", "transformers", "numpy")


def load(folder: str):
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


@lru_cache
def _intervenable(model, layer: int, rank: int, rows: int):
    """The intervenable model, its rotation, and the rotation's numbers at the drawn subspace.

    pyvene keeps the rotation orthogonal by PyTorch's parametrization. To assign a subspace takes longer than a step, so
    that is done once.
    """
    config = pyvene.IntervenableConfig(
        {"layer": layer, "component": "block_output", "low_rank_dimension": rank, "unit": "pos",
         "max_number_of_units": POSITIONS},
        intervention_types=pyvene.LowRankRotatedSpaceIntervention, model_type=type(model))
    intervenable = pyvene.IntervenableModel(config, model, use_fast=True)
    intervenable.disable_model_gradients()
    rotation = next(iter(intervenable.interventions.values())).rotate_layer
    rotation.weight = draw(rows, model.config.n_embd, rank).columns
    free = rotation.parametrizations.weight.original
    return intervenable, rotation, free.detach().clone()


def step(model, layer, rank, rows, fresh=False) -> dict[str, np.ndarray]:
    """One step: the source's pass, the base's pass with the swap, loss, gradients, Adam. Logits before it, [row, class]."""
    data = draw(rows, model.config.n_embd, rank)
    intervenable, rotation, start = _intervenable(model, layer, rank, rows)
    free = rotation.parametrizations.weight.original
    with torch.no_grad():
        free.copy_(start)
    optimiser = torch.optim.Adam(rotation.parameters(), lr=1e-2)
    _, found = intervenable({"input_ids": data.base}, [{"input_ids": data.source}],
                            {"sources->base": [*range(POSITIONS)]})
    optimiser.zero_grad()
    cross_entropy(found.logits, data.labels).backward()
    optimiser.step()
    if not free.grad.abs().max() > 0:
        raise RuntimeError("no gradient reached the rotation")
    return {"logits": found.logits.detach().numpy()}

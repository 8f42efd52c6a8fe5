"""Our side: steps, searches and pairs through the public functions of the course."""
from __future__ import annotations

from functools import lru_cache
from typing import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from utils.alignment import Subspace, Swaps, fit, iia, locate, orthonormal, predict_pairs
from utils.engine import Site, freeze
from utils.engine.passes import count_arithmetic
from utils.models import Prompts, all_sums, encode_sums, load_adder

from . import draws
from .rows import spread, swaps

PACKAGES = ("torch", "transformers", "numpy")
counting = count_arithmetic    # what the worker counts with


def load(folder: str):
    return load_adder(folder, device="cpu")


@lru_cache
def _drawn(width: int, rank: int, rows: int) -> tuple[draws.Draw, Prompts, Swaps]:
    """The draw; its prompts, bases before sources; its swaps."""
    draw = draws.draw(rows, width, rank)
    tokens = torch.cat([draw.base, draw.source])
    prompts = Prompts(tokens, torch.ones_like(tokens), torch.full((len(tokens),), draws.POSITIONS - 1),
                      tuple(tuple(map(str, row)) for row in tokens.tolist()))
    return draw, prompts, Swaps(torch.arange(rows), {"P": rows + torch.arange(rows)}, draw.labels, draw.labels)


@lru_cache
def _frozen(model, layer: int, width: int, rank: int, rows: int):
    return freeze(model, _drawn(width, rank, rows)[1], Site("resid_post", layer))


def step(model, layer, rank, rows, fresh=False) -> dict[str, np.ndarray]:
    """What `fit` does in each step: rotation, swap, layers above, loss, gradients, Adam. Logits before it, [row, class].

    fresh: freeze the model too, which a search does once and not in every step.
    """
    sizes = model.config.n_embd, rank, rows
    draw, _, batch = _drawn(*sizes)
    weights = draw.columns.clone().requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=1e-2)
    frozen = (_frozen.__wrapped__ if fresh else _frozen)(model, layer, *sizes)
    subspace = Subspace(orthonormal(weights), {"P": rank}, tuple(frozen.values.shape[1:]))
    logits = frozen.logits(batch.base, subspace.swap(*batch.values(frozen)))
    cross_entropy(logits, batch.labels).backward()
    optimiser.step()
    return {"logits": logits.detach().numpy()}


def search(model, graph, layer, position, rank, rows, epochs, batch_size) -> Callable[[], dict[str, np.ndarray]]:
    """A whole search at one position, frozen part included; the held-out IIA is measured when the clock has stopped.

    As many steps as the peer makes on all rows; `fit` holds some of them back. It does not stop early.
    """
    inputs, train, held_out = swaps(graph, rows)
    frozen = freeze(model, encode_sums(model, inputs), Site("resid_post", layer, position))
    steps = epochs * -(-rows // batch_size)
    found = fit(frozen, locate(frozen, inputs, train), rank, steps=steps, batch_size=batch_size, patience=steps)
    return lambda: {"iia": np.array(iia(frozen, locate(frozen, inputs, held_out), found.subspace).estimate)}


def pairs(model, layer, rank, inputs, batch_size) -> dict[str, np.ndarray]:
    """The class after a swap between every ordered pair of `inputs` of the sums, all positions jointly."""
    frozen = freeze(model, encode_sums(model, spread(all_sums(), inputs)), Site("resid_post", layer))
    shape = tuple(frozen.values.shape[1:])
    subspace = Subspace(draws.orthonormal(shape[0] * shape[1], rank), {"P": rank}, shape)
    found = predict_pairs(frozen, subspace, batch_size=batch_size)
    return {"classes": found.predicted.numpy()}

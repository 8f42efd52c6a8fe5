"""The subspace illusion: a swap that works although the network does not keep the variable there.

A direction may be the sum of two parts that mean nothing alone. One is *disconnected*: it tells the inputs apart, but
nothing reads it. The other is *dormant*: it is read, but no input ever moves it. A swap along the sum measures the
first and thereby drives the second. Taking away the part that nothing reads exposes it: a true subspace loses nothing.

Source: Makelov et al. 2023, arXiv 2311.17030. Whether such swaps mislead as often in trained networks is disputed: Wu
et al. 2024, arXiv 2401.12631.
"""
from __future__ import annotations

import math

import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from ..engine import Frozen
from ..errors import CourseError
from .scores import iia
from .subspaces import Subspace
from .swaps import Swaps

Matrix = Float[torch.Tensor, "reader wide"]


def illusion_network() -> nn.Sequential:
    """Hidden units (x, 0, x) for an input x; the next layer reads the last two, a and b; the logits are (0, 2 a + b).

    So the third unit carries x to the output, the first is disconnected and the second dormant. The swap along
    (1, 1, 0) / sqrt 2 moves the first two by (source - base) / 2 each, and the output by 2 (source - base) / 2 =
    source - base: exactly as the swap of the third.
    """
    network = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    network.requires_grad_(False)
    network[0].weight.copy_(torch.tensor([[1.0], [0.0], [1.0]]))
    network[1].weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    network[2].weight.copy_(torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
    return network


def illusion_directions(variable: str = "X") -> dict[str, Subspace]:
    """The direction that carries x in `illusion_network`, the one that only seems to, and its two parts."""
    half = 1 / math.sqrt(2)
    directions = {"carries x": (0.0, 0.0, 1.0), "illusion": (half, half, 0.0), "disconnected": (1.0, 0.0, 0.0),
                  "dormant": (0.0, 1.0, 0.0)}
    return {name: Subspace(torch.tensor(d)[:, None], {variable: 1}, (1, 3)) for name, d in directions.items()}


def split_by_readers(columns: Float[torch.Tensor, "wide rank"],
                     readers: Matrix) -> dict[str, Float[torch.Tensor, "wide part"]]:
    """Orthonormal columns for what is left of a subspace when the directions nobody reads are taken away, and for what
    is left when only those are kept. readers: the matrix that the next layer applies; it reads its row space."""
    rows = torch.linalg.svd(readers, full_matrices=False)
    read = rows.Vh[rows.S > 1e-5 * rows.S.max()].T
    inside = read @ (read.T @ columns)
    return {"read": _spanned(inside), "unread": _spanned(columns - inside)}


def _spanned(columns: Float[torch.Tensor, "wide rank"]) -> Float[torch.Tensor, "wide part"]:
    parts = torch.linalg.svd(columns, full_matrices=False)
    return parts.U[:, parts.S > 1e-4]


def illusion_check(frozen: Frozen, swaps: Swaps, subspace: Subspace, readers: Matrix) -> pd.DataFrame:
    """IIA of a variable's subspace, of the part of it that is read, and of the part that nobody reads.

    One row each (part, rank, iia, low, high, moves), also for no swap; moves: the mean distance, over rows, by which
    the swap moves the activation. A true subspace does in "read" what it does as a whole. An illusion falls to what no
    swap gives, as the dormant part does not move by itself. The check needs readers that keep directions apart: what is
    read through a single direction always looks true. Raises CourseError for readers of another width, and for several
    variables.
    """
    wide = subspace.columns.shape[0]
    if readers.shape[-1] != wide:
        raise CourseError(f"the readers take {readers.shape[-1]} numbers, but the activation has {wide}: give the "
                          "weight of the layer that reads it, [reader, wide]")
    if len(subspace.ranks) != 1:
        raise CourseError(f"the subspace holds {', '.join(subspace.ranks)}: check one variable at a time, "
                          "subspace.part('...')")
    variable, = subspace.ranks
    parts = {"whole": subspace.columns, **split_by_readers(subspace.columns, readers)}
    rows = []
    for name, columns in parts.items():
        own = Subspace(columns, {variable: columns.shape[1]}, subspace.shape) if columns.shape[1] else None
        rows.append((name, columns.shape[1], *_score(frozen, swaps, own)))
    rows.append(("no swap", 0, *_score(frozen, swaps, None)))
    return pd.DataFrame(rows, columns=["part", "rank", "iia", "low", "high", "moves"])


def _score(frozen: Frozen, swaps: Swaps, subspace: Subspace | None) -> tuple[float, float, float, float]:
    base, sources = swaps.values(frozen)
    moved = torch.zeros(1) if subspace is None else (subspace.swap(base, sources) - base).flatten(1).norm(dim=1)
    score = iia(frozen, swaps, subspace)
    return score.estimate, score.low, score.high, float(moved.mean())

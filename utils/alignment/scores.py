"""Interchange intervention accuracy (IIA), with its interval, and the prediction for every ordered pair of inputs.

Source: Geiger et al. 2021, arXiv 2106.02997.
"""
from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from tqdm import tqdm

from ..engine import Frozen
from ..errors import CourseError
from ..metrics import Interval, share
from .subspaces import Subspace
from .swaps import Index, Swaps, require_fitting


@torch.no_grad()
def predict(frozen: Frozen, swaps: Swaps, subspace: Subspace | None, *, batch_size: int = 512,
            progress: str | None = None) -> Index:
    """The class that the network gives after each swap, [row]. subspace None: nothing is swapped.

    Only variables that `swaps` has sources for are swapped. Raises CourseError as `require_fitting` and `swap` do.
    """
    require_fitting(frozen, swaps)
    swaps = swaps.to(frozen.values.device)
    found, bar = [], tqdm(total=len(swaps), desc=progress, disable=progress is None, leave=False)
    for start in range(0, len(swaps), batch_size):
        part = swaps[start:start + batch_size]
        base, sources = part.values(frozen)
        values = base if subspace is None else subspace.swap(base, sources)
        found.append(frozen.logits(part.base, values).argmax(-1))
        bar.update(len(part))
    bar.close()
    return torch.cat(found).cpu()


def iia(frozen: Frozen, swaps: Swaps, subspace: Subspace | None, *, batch_size: int = 512) -> Interval:
    """Share of the swaps after which the network gives the causal model's label, with a 95 % Wilson interval.

    The interval is about other swaps between the same inputs; held-out inputs say how it is on others. Raises
    CourseError as `predict` does.
    """
    right = predict(frozen, swaps, subspace, batch_size=batch_size) == swaps.labels.cpu()
    return share(right.numpy())


# ---------------------------------------------------------------- every ordered pair

@dataclass(frozen=True, eq=False)
class Pairs:
    """The class that the network gives for every ordered pair, and what that cost. rows: the inputs, by number."""
    predicted: Int[torch.Tensor, "base source"]
    rows: Index
    seconds: float

    def success(self, labels: Int[torch.Tensor, "base source"]) -> Bool[torch.Tensor, "base source"]:
        """The IIA graph: where the network agrees with `causal_models.pair_labels`.

        Raises CourseError for labels of another shape.
        """
        if labels.shape != self.predicted.shape:
            raise CourseError(f"the labels have the shape {list(labels.shape)}, the predictions "
                              f"{list(self.predicted.shape)}: take pair_labels of the same inputs")
        return self.predicted == labels

    def __str__(self) -> str:
        n, pairs = len(self.rows), self.predicted.numel()
        return f"{n:,} x {n:,} pairs in {self.seconds:.1f} s ({1e6 * self.seconds / pairs:.0f} microseconds each)"


@torch.no_grad()
def predict_pairs(frozen: Frozen, subspace: Subspace, rows: Index | None = None, *, batch_size: int = 512,
                  progress: str | None = None) -> Pairs:
    """Swap between every ordered pair of inputs, base and source; the whole subspace takes one source.

    rows: the inputs by number, None for all. What each input has inside the subspace is computed once, so a pair costs
    two additions and the layers above the site. Raises CourseError for inputs of different length, see
    `require_fitting`.
    """
    rows = torch.arange(len(frozen)) if rows is None else torch.as_tensor(rows)
    zeros = torch.zeros_like(rows)
    require_fitting(frozen, Swaps(rows, {"": rows[:1].expand(len(rows))}, zeros, zeros))
    values = frozen.values[rows].flatten(1)
    inside = (values @ subspace.columns) @ subspace.columns.T
    outside, shape = values - inside, frozen.values.shape[1:]
    predicted, start = torch.empty(len(rows) ** 2, dtype=torch.long), time.perf_counter()
    bar = tqdm(total=len(predicted), desc=progress, disable=progress is None, leave=False)
    for first in range(0, len(predicted), batch_size):
        pair = torch.arange(first, min(first + batch_size, len(predicted)))
        base, source = pair // len(rows), pair % len(rows)
        new = (outside[base] + inside[source]).unflatten(1, shape)
        predicted[pair] = frozen.logits(rows[base].to(new.device), new).argmax(-1).cpu()
        bar.update(len(pair))
    bar.close()
    return Pairs(predicted.view(len(rows), -1), rows, time.perf_counter() - start)

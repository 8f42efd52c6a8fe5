"""What an IIA must be compared with: controls that would be high too if the number said nothing about the variable.

Sources: Arora et al. 2024, arXiv 2402.12560 (arbitrary labels), after Hewitt & Liang 2019, arXiv 1909.03368; Geiger et
al. 2024, arXiv 2303.02536 (wrong causal models).
"""
from __future__ import annotations

from typing import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from ..engine import Frozen
from ..errors import CourseError
from ..metrics import Interval
from .fitting import Fitted, fit
from .scores import iia
from .subspaces import Subspace, everything, random_subspace
from .swaps import Swaps, outputs_of

DEALS = 20      # draws of arbitrary labels, of which the least related to the real ones is taken
MEANING = {
    "found": "the subspace that was found",
    "no swap": "nothing is swapped: the share of rows whose label the network gives anyway",
    "full patch": "the whole activation is taken from the source of the first variable",
    "random subspace": "directions drawn at random, as many; lowest and highest of several draws",
    "arbitrary labels": "found and scored with labels dealt at random among pairs (class before, class after the swap)",
    "untrained model": "found and scored in a network with random weights",
}


def full_patch(frozen: Frozen, swaps: Swaps, *, batch_size: int = 512) -> Interval:
    """IIA if the whole activation comes from the source of the first variable."""
    variable, source = next(iter(swaps.sources.items()))
    patch = everything(tuple(frozen.values.shape[1:]), variable).to(frozen.values.device)
    return iia(frozen, Swaps(swaps.base, {variable: source}, swaps.labels, swaps.base_labels), patch,
               batch_size=batch_size)


def random_iia(frozen: Frozen, swaps: Swaps, ranks: Mapping[str, int], *, draws: int = 5, seed: int = 0,
               batch_size: int = 512) -> Interval:
    """Mean IIA of random subspaces; from the lowest end to the highest end of their intervals."""
    shape = tuple(frozen.values.shape[1:])
    found = [iia(frozen, swaps, random_subspace(shape, ranks, seed + i).to(frozen.values.device), batch_size=batch_size)
             for i in range(draws)]
    return Interval(float(np.mean([f.estimate for f in found])), min(f.low for f in found), max(f.high for f in found))


# ---------------------------------------------------------------- arbitrary labels

def deal_labels(classes: int, swaps: Swaps, seed: int = 0) -> Int[torch.Tensor, "before after"]:
    """An arbitrary label for each pair (class without the swap, class after it): the right ones, dealt anew at random.

    Each label is dealt as often as it was there. Of 20 deals the one is taken that agrees with fewest of the rows'
    labels, before or after the swap (whichever are more): with two classes a deal may by chance be the real labels, or
    those of a network that ignores the swap.
    """
    generator, pairs = torch.Generator().manual_seed(seed), (swaps.base_labels, swaps.labels)
    right = torch.arange(classes).expand(classes, classes).flatten()
    best, least = None, 2.0
    for _ in range(DEALS):
        table = right[torch.randperm(len(right), generator=generator)].view(classes, classes)
        agrees = max(float((table[pairs] == own).float().mean()) for own in pairs)
        if agrees < least:
            best, least = table, agrees
    return best


def relabel(swaps: Swaps, table: Int[torch.Tensor, "before after"]) -> Swaps:
    """The same swaps with the labels of the table."""
    return Swaps(swaps.base, swaps.sources, table[swaps.base_labels, swaps.labels], swaps.base_labels)


# ---------------------------------------------------------------- one table

def control_table(frozen: Frozen, train: Swaps, held_out: Swaps, found: Fitted, *, untrained: Frozen | None = None,
                  seed: int = 0, **options) -> pd.DataFrame:
    """The IIA of what was found, and of each control, on the same held-out swaps.

    One row each: (name, iia, low, high, rows, meaning). untrained: the same inputs and site, frozen in a network with
    random weights; None leaves that control out. Two controls search anew, on `train`, with `options` of `fit`. For
    labels dealt at random both `train` and `held_out` take theirs from one table, see `deal_labels`.
    Raises CourseError as `fit` does, and for an untrained network with other inputs or outputs.
    """
    ranks = found.subspace.ranks
    scores = {"found": iia(frozen, held_out, found.subspace), "no swap": iia(frozen, held_out, None),
              "full patch": full_patch(frozen, held_out), "random subspace": random_iia(frozen, held_out, ranks, seed=seed)}
    table = deal_labels(outputs_of(frozen), train, seed)

    def again(other, one, two):
        return iia(other, two, fit(other, one, ranks, seed=seed, **options).subspace)

    scores["arbitrary labels"] = again(frozen, relabel(train, table), relabel(held_out, table))
    if untrained is not None:
        if untrained.values.shape != frozen.values.shape or outputs_of(untrained) != outputs_of(frozen):
            raise CourseError(f"the untrained network has activations of shape {list(untrained.values.shape)} and "
                              f"{outputs_of(untrained)} outputs, the trained one {list(frozen.values.shape)} and "
                              f"{outputs_of(frozen)}: freeze both on the same inputs at the same site")
        scores["untrained model"] = again(untrained, train, held_out)
    return pd.DataFrame([(name, s.estimate, s.low, s.high, len(held_out), MEANING[name]) for name, s in scores.items()],
                        columns=["name", "iia", "low", "high", "rows", "meaning"])


def cross_scores(frozen: Frozen, subspaces: Mapping[str, Subspace | None], held_out: Mapping[str, Swaps], *,
                 batch_size: int = 512) -> pd.DataFrame:
    """Subspaces found for some causal models, scored on the swaps of all: (found_for, scored_on, iia, low, high).

    High beside the diagonal means that the causal models cannot be told apart here. A subspace None is no swap at all.
    """
    rows = []
    for name, subspace in subspaces.items():
        for other, swaps in held_out.items():
            score = iia(frozen, swaps, subspace, batch_size=batch_size)
            rows.append((name, other, score.estimate, score.low, score.high))
    return pd.DataFrame(rows, columns=["found_for", "scored_on", "iia", "low", "high"])

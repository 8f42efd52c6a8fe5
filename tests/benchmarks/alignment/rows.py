"""The swaps between sums that a whole search is trained and scored on, the same for every side."""
from __future__ import annotations

from functools import lru_cache

import torch

from utils.tasks import Counterfactuals, addition, sample_counterfactuals, split

from .jobs import HELD_OUT


@lru_cache
def swaps(graph: str, rows: int) -> tuple[torch.Tensor, Counterfactuals, Counterfactuals]:
    """All 1,000 sums [input, 3], and swaps of P for the search and for the score, between different sums."""
    model = addition(graph)
    inputs = model.all_inputs()
    seen, unseen = split(inputs, 0.2, 0)
    train, held_out = (sample_counterfactuals(model, "P", number, changed=None, among=among, seed=seed)
                       for seed, (number, among) in enumerate([(rows, seen), (HELD_OUT, unseen)]))
    return inputs, train, held_out


def spread(inputs: torch.Tensor, number: int) -> torch.Tensor:
    """So many of the inputs, evenly spread over all of them."""
    return inputs[torch.arange(number) * len(inputs) // number]

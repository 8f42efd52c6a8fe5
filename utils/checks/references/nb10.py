"""Derived from the exercise cells of solutions/10_which_algorithm.ipynb by python -m utils.authoring."""
from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


def iia_graph(predicted: Int[Tensor, "base source"], inputs: Int[Tensor, "input 3"]) -> Bool[Tensor, "base source"]:
    """Where a swap of P between two inputs gives the label of (X+Y)+Z."""
    x, y, z = inputs.T
    return predicted == z[:, None] + (x + y)[None, :] - 3


def joined(success: Bool[Tensor, "base source"]) -> Bool[Tensor, "input input"]:
    """Pairs of different inputs that swap both ways."""
    return (success & success.T) & ~torch.eye(len(success), dtype=torch.bool, device=success.device)


def free_swaps(labels: Int[Tensor, "base source"], own: Int[Tensor, "input"]) -> Bool[Tensor, "base source"]:
    """Swaps after which the base's own label or the source's own is right."""
    return (labels == own[:, None]) | (labels == own[None, :])


def peel(joined: Bool[Tensor, "input input"]) -> list[int]:
    """A clique: take the input with the fewest partners away until all that are left are partners."""
    left = torch.arange(len(joined))
    while True:
        partners = joined[left][:, left].sum(1)
        if partners.min() >= len(left) - 1:
            return left.tolist()
        left = left[torch.arange(len(left)) != partners.argmin()]


def held_out_score(grow, columns: Int[np.ndarray, "input feature"], inside: Bool[np.ndarray, "input"],
                   seed: int) -> float:
    """Balanced accuracy on a random 30 % of the inputs, which `grow(columns, inside)` did not see."""
    order = np.random.default_rng(seed).permutation(len(inside))
    test, train = np.split(order, [round(0.3 * len(order))])
    right = grow(columns[train], inside[train]).predict(columns[test]) == inside[test]
    return (right[inside[test]].mean() + right[~inside[test]].mean()) / 2


def cover(success: dict[str, Bool[Tensor, "base source"]], parts: dict[str, list[int]]) -> tuple[float, float]:
    """(coverage, faithfulness); an input named by several parts belongs to the first of them."""
    taken, right, pairs = set(), 0, 0
    for name, part in parts.items():
        own = [i for i in dict.fromkeys(part) if i not in taken]
        taken |= set(own)
        block = success[name][own][:, own]
        right += int(block.sum() - block.diagonal().sum())
        pairs += len(own) * (len(own) - 1)
    return len(taken) / len(next(iter(success.values()))), right / pairs

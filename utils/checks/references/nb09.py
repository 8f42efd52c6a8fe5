"""Derived from the exercise cells of solutions/09_das_on_arithmetic.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from utils.alignment import Subspace, random_subspace


def accuracy(logits: Float[Tensor, "input class"], inputs: Int[Tensor, "input 3"]) -> float:
    """The share of inputs whose total the classifier names."""
    return (logits.argmax(-1).cpu() + 3 == inputs.sum(-1)).float().mean().item()


def interchange_labels(base: Int[Tensor, "row 3"], source: Int[Tensor, "row 3"], taken: str) -> Int[Tensor, "row"]:
    """The class of the answer if the numbers named in `taken`, such as "XZ", come from the source, the others not."""
    mixed = base.clone()
    for name in taken:
        column = "XYZ".index(name)
        mixed[:, column] = source[:, column]
    return mixed.sum(1) - 3


TAKEN = ["", "X", "Y", "Z", "XY", "XZ", "YZ", "XYZ"]


def telling(base: Int[Tensor, "row 3"], source: Int[Tensor, "row 3"]) -> Bool[Tensor, "row"]:
    """Where the eight hypotheses predict eight different answers."""
    answers = torch.stack([interchange_labels(base, source, taken) for taken in TAKEN]).sort(0).values
    return (answers.diff(dim=0) != 0).all(0)


def place_columns(numbers: Float[Tensor, "number width"], places: tuple[int, ...],
                  length: int) -> Float[Tensor, "wide rank"]:
    """Orthonormal columns over `length` positions side by side; swaps inside them exchange the numbers at `places`."""
    basis = torch.linalg.qr((numbers[1:] - numbers[0]).T).Q
    columns = numbers.new_zeros(length, numbers.shape[1], len(places), basis.shape[1])
    for i, place in enumerate(places):
        columns[place, :, i] = basis
    return columns.flatten(2).flatten(0, 1)


def split_triples(inputs: Int[Tensor, "input 3"], share: float,
                  seed: int) -> tuple[Int[Tensor, "rest 3"], Int[Tensor, "held_out 3"]]:
    """(the rest, a share that is held out); three numbers in any order are on the same side."""
    triples, which = inputs.sort(1).values.unique(dim=0, return_inverse=True)
    order = torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed))
    held_out = torch.isin(which, order[:round(share * len(triples))])
    return inputs[~held_out], inputs[held_out]


def moved_and_stayed(batches: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[float, float]:
    """Share of right answers (where the swap changes the label, where it keeps it), over the rows of all batches."""
    predicted, labels, base_labels = (torch.cat(parts) for parts in zip(*batches))
    right, changed = (predicted == labels).float(), labels != base_labels
    return right[changed].mean().item(), right[~changed].mean().item()


def fair_control(found: Subspace, seed: int) -> Subspace:
    """Directions drawn at random: as many, of the same activation."""
    return random_subspace(found.shape, found.ranks, seed)


def share_explained(values: Float[Tensor, "input column"], groups: Int[Tensor, "input"]) -> float:
    """The share of the variance of `values` that lies between groups; the rest lies within them."""
    _, which, sizes = groups.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(sizes), values.shape[1]).index_add(0, which, values) / sizes[:, None]
    centre = values.mean(0)
    return ((means[which] - centre).square().sum() / (values - centre).square().sum()).item()

"""Derived from the exercise cells of solutions/08_das_on_an_mlp.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from utils.alignment import Swaps
from utils.tasks import CausalModel


def equality_model(objects: int) -> CausalModel:
    """Four objects: are the first two equal (P), are the last two equal (Q), and do these two answers agree (O)?"""
    parents = {"P": ("A", "B"), "Q": ("C", "D"), "O": ("P", "Q")}

    def same(one, other):
        return int(one == other)

    functions = {"P": same, "Q": same, "O": same}
    values = {**dict.fromkeys("ABCD", range(objects)), **dict.fromkeys("PQO", (0, 1))}
    return CausalModel("hierarchical equality", values, parents, functions,
                       formulas={"P": "A == B", "Q": "C == D", "O": "P == Q"})


def counterfactual_answer(causal: CausalModel, base: dict[str, int], source: dict[str, int], variable: str) -> int:
    """The output on `base` if `variable` has the value that it has on `source`."""
    value = causal.run(source)[variable]
    return causal.run(base, do={variable: value})[causal.output]


def swap_inside(base: Float[Tensor, "row width"], source: Float[Tensor, "row width"],
                columns: Float[Tensor, "width rank"]) -> Float[Tensor, "row width"]:
    """`base`, with the part inside the subspace taken from `source`."""
    return base + (source - base) @ columns @ columns.T


def orthonormal_columns(weights: Float[Tensor, "width rank"]) -> Float[Tensor, "width rank"]:
    """Columns of length 1 at right angles to one another that span what the columns of `weights` span."""
    return torch.linalg.qr(weights).Q


def search(above, hidden: Float[Tensor, "input width"], swaps: Swaps, rank: int, steps: int = 600,
           seed: int = 0) -> Float[Tensor, "width rank"]:
    """Orthonormal columns for which the swaps of P give their labels."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(hidden.shape[1], rank, generator=generator).requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=0.03)
    for step in range(steps):
        rows = swaps[torch.randint(len(swaps), (256,), generator=generator)]
        new = swap_inside(hidden[rows.base], hidden[rows.sources["P"]], orthonormal_columns(weights))
        loss = cross_entropy(above(new), rows.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return orthonormal_columns(weights.detach())


def right_swaps(above, hidden: Float[Tensor, "input width"], swaps: Swaps, columns: Float[Tensor, "width rank"],
                batch_size: int = 250) -> Bool[Tensor, "row"]:
    """For each swap of P, whether the network then gives the causal model's label."""
    right = []
    for start in range(0, len(swaps), batch_size):
        rows = swaps[start:start + batch_size]
        new = swap_inside(hidden[rows.base], hidden[rows.sources["P"]], columns)
        right.append(above(new).argmax(-1) == rows.labels)
    return torch.cat(right)


def draw_parts(inputs: Int[Tensor, "row input"], sizes: list[int], seed: int) -> list[Int[Tensor, "part input"]]:
    """Random parts of these sizes; no input is in two of them, or twice in one."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    return [inputs[rows] for rows in order[:sum(sizes)].split(sizes)]


def abab_model(objects: int) -> CausalModel:
    """Does the pattern ABAB hold: is one pair equal (P), is the other pair equal (Q), and are both (O)?"""
    def same(one, other):
        return int(one == other)

    def both(one, other):
        return int(one and other)

    parents = {"P": ("A", "C"), "Q": ("B", "D"), "O": ("P", "Q")}
    functions = {"P": same, "Q": same, "O": both}
    values = {**dict.fromkeys("ABCD", range(objects)), **dict.fromkeys("PQO", (0, 1))}
    return CausalModel("ABAB", values, parents, functions)

"""Checks of notebook 08: causal models, interchanges, swaps in a subspace, its search and score, held-out inputs."""
from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..alignment import Swaps
from ..tasks import CausalModel, addition
from . import call, close, exercise, require, tensor_like
from .references.nb08 import orthonormal_columns


# ---------------------------------------------------------------- what the checks run on

def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _turned(width: int, rank: int, seed: int = 0) -> Float[Tensor, "width rank"]:
    return torch.linalg.qr(_random(width, rank, seed=seed)).Q


class _Planted(nn.Module):
    """Class 1 if p and q have the same sign. They lie along two hidden directions, each 1 or -1; the rest is noise."""

    def __init__(self, width: int = 5):
        super().__init__()
        self.turn = _turned(width, width, seed=3)

    def forward(self, hidden: Float[Tensor, "row width"]) -> Float[Tensor, "row class"]:
        held = hidden @ self.turn[:, :2]
        product = 3 * held[:, 0] * held[:, 1]
        return torch.stack([-product, product], 1)


@lru_cache(maxsize=1)
def _planted(rows: int = 2000):
    """(network above the hidden layer, hidden [input, width], swaps of P between its inputs)."""
    above, inputs = _Planted(), 200
    width = len(above.turn)
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=2))).repeat(inputs // 4, 1)
    hidden = torch.cat([signs, 0.5 * _random(inputs, width - 2, seed=4)], 1) @ above.turn.T
    generator = torch.Generator().manual_seed(5)
    base, source = torch.randint(inputs, (2, rows), generator=generator)
    after = (signs[source, 0] == signs[base, 1]).long()
    return above, hidden, Swaps(base, {"P": source}, after, (signs[base, 0] == signs[base, 1]).long())


def _rows_of(result, objects: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Every input, and the values of P, Q and O on it, of a student's causal model."""
    require(isinstance(result, CausalModel), f"return the CausalModel, not a {type(result).__name__}.")
    require(sorted(result.inputs) == list("ABCD") and result.output == "O" and sorted(result.inner) == ["P", "Q"],
            "the inputs are A, B, C and D, the variables between are P and Q, and the output is O: "
            f"yours are {', '.join(result.inputs)}, then {', '.join(result.inner) or 'none'}, then {result.output}.")
    inputs = torch.cartesian_prod(*[torch.arange(objects)] * 4)
    values = result.run_batch(inputs[:, ["ABCD".index(v) for v in result.inputs]])
    return inputs, values


# ---------------------------------------------------------------- checks

@exercise("8.1 equality_model", difficulty=1, minutes=4)
def _(attempt):
    inputs, values = _rows_of(call(attempt, 4), 4)
    a, b, c, d = inputs.T
    p, q = (a == b).long(), (c == d).long()
    close(values["P"], p, message="P must be 1 exactly if A and B are equal.", wrong={
        "P compares A and C: the first pair is A and B.": (a == c).long(), "P is Q: the first pair is A and B.": q,
        "P is 1 if A and B differ: it should be 1 if they are equal.": 1 - p})
    close(values["Q"], q, message="Q must be 1 exactly if C and D are equal.", wrong={
        "Q compares B and D: the second pair is C and D.": (b == d).long(),
        "Q is 1 if C and D differ: it should be 1 if they are equal.": 1 - q})
    close(values["O"], (p == q).long(), message="O must be 1 exactly if P and Q agree.", wrong={
        "O is 'P and Q': four different objects must be True too, as P and Q agree there.": p * q,
        "O is 'P or Q': AABC must be False, as one pair is equal and the other is not.": ((p + q) > 0).long(),
        "O is 1 if P and Q differ: it should be 1 if they agree.": (p != q).long()})
    require(set(call(attempt, 6).values["A"]) == set(range(6)), "`objects` is not used: with 6 objects A must run from "
            "0 to 5.")


@exercise("8.2 counterfactual_answer", difficulty=2, minutes=3)
def _(attempt):
    causal = addition("(X+Y)+Z", 1, 5)
    base, source = {"X": 1, "Y": 2, "Z": 5}, {"X": 4, "Y": 5, "Z": 2}

    def answer(name):
        return tensor_like(_one_number(call(attempt, causal, base, source, name)), shape=(), dtype=int)

    # by hand, in (X + Y) + Z: P is 3 on the base and 9 on the source
    close(answer("P"), 9 + 5, wrong={
        "The wrong way round: the base runs, and one value comes from the source.": 3 + 2,
        "That is the answer on the base: nothing was exchanged.": 8,
        "That is the answer on the source: only one variable comes from it, the rest from the base.": 11,
        "That is the value of the variable: run the base with it, and return the output.": 9})
    close(answer("Z"), 3 + 2, wrong={"The variable is always P: use `variable`.": 9 + 5,
                                     "That is the answer on the base.": 8})


def _one_number(result):
    require(not isinstance(result, dict), "return the value of the output alone, not all variables.")
    return result


@exercise("8.3 swap_inside", difficulty=2, minutes=4)
def _(attempt):
    base, source, columns = _random(6, 7), _random(6, 7, seed=1), _turned(7, 3)
    raw = call(attempt, base, source, columns.clone().requires_grad_())
    result = tensor_like(raw, shape={"row": 6, "width": 7})

    def inside(values):
        return torch.einsum("rw,wk,vk->rv", values, columns, columns)

    first = torch.cat([source[:, :3], base[:, 3:]], 1)
    close(result, base - inside(base) + inside(source), wrong={
        "The wrong way round: base and source are exchanged. Outside the subspace everything stays as in the base.":
            source - inside(source) + inside(base),
        "Nothing changed: return the base with its part inside the subspace replaced.": base,
        "That is the source as a whole: take over only its part inside the subspace.": source,
        "The rest of the base is lost: you returned only the source's part inside the subspace.": inside(source),
        "You added the source's part, but the base's own part is still there: add the difference.":
            base + inside(source),
        "You exchanged the first neurons, not directions: multiply with the columns.": first,
        "You took the base's part away and put nothing in its place.": base - inside(base)})
    require(raw.requires_grad, "No gradient reaches the columns, so they cannot be trained: do without detach "
            "and no_grad.")


@exercise("8.4 orthonormal_columns", difficulty=2, minutes=3)
def _(attempt):
    for wide, rank in ((9, 4), (9, 1), (5, 5)):
        weights = _random(wide, rank, seed=rank) * 3 + 0.4
        raw = call(attempt, weights.clone().requires_grad_())
        result = tensor_like(raw, shape={"width": wide, "rank": rank})
        angles = result.T @ result
        off, lengths = (angles - angles.diag().diag()).abs().max(), angles.diag()
        require(bool(lengths.min() > 1e-6), "some columns are zero.")
        units = bool((lengths - 1).abs().max() < 1e-4)
        require(not units or off < 1e-4, "Every column has length 1, but they are not at right angles: two of them "
                f"have the product {off:.2f}. What two columns share would be counted twice.")
        require(units, f"the columns do not have length 1: their squared lengths are {lengths.min():.2f} to "
                f"{lengths.max():.2f}, and a swap would overshoot or fall short by that factor.")
        span = weights @ torch.linalg.solve(weights.T @ weights, weights.T)
        close(result @ result.T, span, message="The columns are orthonormal, but they do not span what the weights "
              "span: then training the weights would not turn them.")
        require(raw.requires_grad, "No gradient reaches the weights, so they cannot be trained: do without detach "
                "and no_grad.")


@exercise("8.5 search", difficulty=4, minutes=9)
def _(attempt):
    above, hidden, swaps = _planted()
    found = [tensor_like(call(attempt, above, hidden, swaps, 1, 200, seed), shape={"width": hidden.shape[1], "rank": 1})
             for seed in (0, 1, 2)]
    lengths = torch.stack([columns.norm() for columns in found])
    require(bool((lengths - 1).abs().max() < 1e-4), f"the columns you return are not orthonormal: one has length "
            f"{lengths[(lengths - 1).abs().argmax()]:.2f}. Return orthonormal_columns of the weights, not the weights.")
    start = [orthonormal_columns(_random(hidden.shape[1], 1, seed=seed)) for seed in (0, 1, 2)]
    moved = max(float(1 - (one.T @ other).abs()) for one, other in zip(found, start))
    require(moved > 1e-4, "The columns did not move from where they began: is there a backward() and a step() of the "
            "optimiser in the loop?")
    # how much of each column lies along p, along q, along the noise; the best of three starts
    along = max(((above.turn.T @ columns)[:, 0].abs() for columns in found), key=lambda parts: parts[0])
    others = torch.stack([(above.turn.T @ columns)[:, 0].abs() for columns in found])
    if along[0] < 0.95:
        require(others[:, 1].max() < 0.9, "You found the place of Q instead of P: base and source are exchanged in the "
                "swap.")
        require(others[:, :2].max() > 0.3, "You found directions in which a swap changes nothing: were the base_labels "
                "the goal, or did the loss rise instead of fall?")
    require(bool(along[0] > 0.95), "After the search the swap still does not do what the labels say: the best of three "
            f"searches points by {along[0]:.2f} to where P lies, expected 1. Is the cross-entropy of the swapped run "
            "with `labels` going down?")


@exercise("8.6 right_swaps", difficulty=2, minutes=4)
def _(attempt):
    above, hidden, swaps = _planted()
    swaps, columns = swaps[:70], above.turn[:, :1] * 0.8 + above.turn[:, 1:2] * 0.6      # not quite the right one
    base, source = hidden[swaps.base], hidden[swaps.sources["P"]]
    inside = (source - base) @ columns @ columns.T

    def says(values):
        return above(values).argmax(-1)

    result = call(attempt, above, hidden, swaps, columns, 32)
    result = tensor_like(result, dtype=None)
    require(result.ndim > 0, "return one True or False for each swap, not their mean.")
    require(len(result) != 32, "Only the first batch was judged, 32 of 70 swaps: is the `return` inside the loop?")
    require(len(result) != 6, "Only the last batch was judged, 6 of 70 swaps: collect all of them.")
    require(result.dtype == torch.bool, f"expected True or False for each swap, got {result.dtype}.")
    result = tensor_like(result, shape={"row": 70}, dtype=bool).long()
    close(result, (says(base + inside) == swaps.labels).long(), wrong={
        "You compared with the base's labels: then a swap that does nothing would be best.":
            (says(base + inside) == swaps.base_labels).long(),
        "Nothing was swapped before the network answered.": (says(base) == swaps.labels).long(),
        "The whole activation was taken from the source: swap inside the columns.":
            (says(source) == swaps.labels).long(),
        "Base and source are exchanged in the swap.": (says(source - inside) == swaps.labels).long()})


@exercise("8.7 draw_parts", difficulty=2, minutes=3)
def _(attempt):
    inputs, sizes = torch.cartesian_prod(torch.arange(4), torch.arange(5)), [11, 3, 4]
    found = {}
    for seed in (0, 1, 2, 0):
        parts = call(attempt, inputs, sizes, seed)
        require(isinstance(parts, (list, tuple)) and len(parts) == 3, "return a list with three parts, one for each "
                "size.")
        parts = [tensor_like(part, dtype=int) for part in parts]
        for part, size in zip(parts, sizes):
            require(part.shape == (size, 2), f"a part has the shape {list(part.shape)}, expected [{size}, 2]: keep the "
                    "sizes, and whole inputs.")
        rows = [[tuple(row) for row in part.tolist()] for part in parts]
        require(set().union(*rows) <= set(map(tuple, inputs.tolist())), "some rows are no rows of `inputs`.")
        shared = [set(rows[i]) & set(rows[j]) for i in range(3) for j in range(i)]
        require(not any(shared), f"{sum(map(len, shared))} inputs are in more than one part: draw all parts from one "
                "shuffled order.")
        require(all(len(set(part)) == len(part) for part in rows), "an input is twice in the same part: draw without "
                "replacement.")
        require(seed not in found or found[seed] == rows, "The same seed gives other parts the second time: use a "
                "generator that starts from `seed`.")
        found[seed] = rows
    ordered = all(part == sorted(part) for part in found[0]) and found[0][0][-1] < found[0][1][0]
    require(not ordered, "The parts are the first rows, the next rows and so on: the inputs are in order, so shuffle "
            "them first.")
    require(found[0] != found[1] or found[1] != found[2], "Every seed gives the same parts: shuffle with `seed`.")


@exercise("8.8 abab_model", difficulty=1, minutes=3)
def _(attempt):
    inputs, values = _rows_of(call(attempt, 3), 3)
    a, b, c, d = inputs.T
    one, other, p, q = (a == c).long(), (b == d).long(), values["P"], values["Q"]
    swapped = bool((p == other).all() and (q == one).all())         # which of the two is called P is a matter of names
    if not swapped:
        close(p, one, message="P must be 1 exactly if the first and the third object are equal, A and C.", wrong={
            "P compares A and B: that is the pattern AABB.": (a == b).long(),
            "P compares A and D: that is the pattern ABBA.": (a == d).long()})
        close(q, other, message="Q must be 1 exactly if the second and the fourth object are equal, B and D.", wrong={
            "Q compares the third object with the fourth, as the sentence does: then A, C and D are equal, and that is "
            "ABAA.":
                (c == d).long(),
            "Q compares B and C: that is the pattern ABBA.": (b == c).long()})
    close(values["O"], one * other, message="O must be 1 exactly if both pairs are equal.", wrong={
        "O is 'P == Q', as in the first task: four different objects must be False here.": (one == other).long(),
        "O is 'P or Q': both pairs must be equal.": ((one + other) > 0).long()})

"""Checks of notebook 09: classes and totals, interchange labels, telling pairs, subspaces of places, splits, scores."""
from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from ..alignment import Subspace, random_subspace
from . import call, close, exercise, require, tensor_like

Numbers = Int[Tensor, "row 3"]


# ---------------------------------------------------------------- what the checks run on

def _numbers(rows: int, seed: int, high: int = 10) -> Numbers:
    return torch.randint(1, high + 1, (rows, 3), generator=torch.Generator().manual_seed(seed))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _different(base: list[int], source: list[int]) -> int:
    """How many different totals the eight mixtures of base and source have, one by one."""
    return len({x + y + z for x in (base[0], source[0]) for y in (base[1], source[1]) for z in (base[2], source[2])})


@exercise("9.1 accuracy", difficulty=1, minutes=3)
def _(attempt):
    inputs = _numbers(16, seed=0, high=8) + torch.tensor([0, 1, 1])                      # totals of 5 to 26
    said = inputs.sum(1) + torch.tensor([0] * 7 + [3] * 4 + [1] * 2 + [-1] * 2 + [2])
    logits = -_random(16, 28).abs() - 1
    logits[torch.arange(16), said.clamp(max=30) - 3] = -0.5
    result = tensor_like(call(attempt, logits, inputs), shape=(), dtype=None)
    close(result, 7 / 16, wrong={
        "You compare the number of the class with the total: class 0 is the total 3.": 4 / 16,
        "You are off by one: class 0 is the total 3.": 2 / 16,
        "That is a count: divide by the number of inputs.": 7.0,
        "That is the share of errors.": 9 / 16,
        "Nothing is right: class 0 is the total 3, class 27 is 30.": 0.0})


@exercise("9.2 interchange_labels", difficulty=2, minutes=4)
def _(attempt):
    base = torch.tensor([[1, 2, 3], [10, 1, 7], [5, 5, 5], [2, 9, 4]])
    source = torch.tensor([[4, 8, 10], [2, 3, 1], [1, 9, 6], [3, 3, 8]])
    by_hand = {"XZ": [13, 1, 9, 17], "Y": [9, 17, 16, 6], "": [3, 15, 12, 12], "XYZ": [19, 3, 13, 11]}
    wholly, nothing = torch.tensor(by_hand["XYZ"]), torch.tensor(by_hand[""])
    for taken in ("XZ", "Y"):
        right = torch.tensor(by_hand[taken])
        result = tensor_like(call(attempt, base, source, taken), shape={"row": 4}, dtype=None)
        close(result, right, wrong={
            "That is the answer to the source: only the numbers named in `taken` come from it.": wholly,
            "That is the source's total, no class: and only the numbers in `taken` come from the source.": wholly + 3,
            "Nothing came from the source.": nothing,
            "These are totals: class 0 is the total 3.": right + 3,
            "Base and source are exchanged: the numbers in `taken` come from the source.": wholly + nothing - right})
    for taken in ("", "XYZ"):
        close(call(attempt, base, source, taken), by_hand[taken],
              message=f'With taken="{taken}" expected {by_hand[taken]} for the rows of the check: all numbers named, '
                      "and only those, come from the source.")


@exercise("9.3 telling", difficulty=2, minutes=5)
def _(attempt):
    def asked(base, source):
        return tensor_like(call(attempt, base, source), shape={"row": len(base)}, dtype=bool)

    fives = torch.full((1, 3), 5)

    def one(*changes):
        return bool(asked(fives, fives + torch.tensor(changes)))

    require(one(1, 2, 4), "5+5+5 with source 6+7+9 has eight different answers, 15 to 22: this row should be kept.")
    require(not one(0, 2, 4), "X is 5 in base and source: whether it was taken cannot be seen in the answer.")
    require(not one(2, 2, 5), "X and Y change by 2 each: taking X and taking Y give the same answer.")
    require(not one(1, 2, 3), "5+5+5 with source 6+7+8: taking X and Y gives the same answer as taking Z. Compare all "
            "eight answers with one another.")
    require(not one(1, -1, 4), "5+5+5 with source 6+4+9: taking X and Y gives the same answer as taking nothing.")
    require(not one(-3, 1, 2), "5+5+5 with source 2+6+7: taking all three gives the same answer as taking nothing.")
    base, source = _numbers(300, seed=1), _numbers(300, seed=2)
    right = torch.tensor([_different(*row) == 8 for row in zip(base.tolist(), source.tolist())])
    result = asked(base, source)
    for row in (result != right).nonzero().flatten().tolist():
        require(False, f"base {base[row].tolist()}, source {source[row].tolist()}: the eight answers are "
                f"{'' if right[row] else 'not '}all different. Equal ones are easy to see once the answers are sorted.")


@exercise("9.4 place_columns", difficulty=3, minutes=7)
def _(attempt):
    width, length, places = 16, 5, (1, 4)
    numbers, elsewhere = _random(10, width), _random(length, width, seed=1)
    wide = length * width
    columns = tensor_like(call(attempt, numbers, places, length), dtype=float)
    require(columns.dim() == 2 and columns.shape[0] == wide, f"the columns have the shape {list(columns.shape)}: "
            f"expected {wide} rows, {length} positions of width {width} one after the other.")
    rank = columns.shape[1]
    require(rank <= 20, f"{rank} columns: ten vectors differ in nine directions at most, so nine columns for each "
            "place are enough.")
    require((columns.T @ columns - torch.eye(rank)).abs().max() < 1e-4,
            "the columns are not orthonormal: torch.linalg.qr makes them so.")

    def prompt(chosen: list[int], shift: float) -> Tensor:
        rows = elsewhere + shift * torch.tensor([[1.0], [0], [1], [1], [0]])
        rows[list(places)] = numbers[chosen] + elsewhere[list(places)]
        return rows
    before, after, wanted = prompt([2, 7], 0.0), prompt([9, 4], 1.0), prompt([9, 4], 0.0)
    new = before + ((after - before).flatten() @ columns @ columns.T).reshape(length, width)
    others = [i for i in range(length) if i not in places]
    require((new - before)[others].abs().max() < 1e-4, "The swap changes positions other than `places`: a column of "
            "place p must be zero outside rows p * width to (p + 1) * width.")
    require((new - before).abs().max() > 1e-4, "The swap changes nothing.")
    off = (new - wanted)[list(places)].abs().amax(1)
    require((off < 1e-3).any() or rank > 10, "The columns reach into both places at once, so X and Y can be exchanged "
            "only by the same amount: give each place columns of its own.")
    close(new, wanted, atol=1e-3, message="After the swap the numbers at `places` should be the source's: do the "
          "columns of each place span all differences between the ten vectors?")


@exercise("9.5 split_triples", difficulty=2, minutes=4)
def _(attempt):
    inputs = torch.cartesian_prod(*[torch.arange(1, 6)] * 3)

    def parts(seed: int) -> list[list]:
        result = call(attempt, inputs, 0.2, seed)
        require(isinstance(result, (tuple, list)) and len(result) == 2, "return two things: the rest, and what is held "
                "out.")
        for part in result:
            require(isinstance(part, Tensor) and part.dim() == 2 and part.shape[1] == 3,
                    "each part is a table of inputs, [input, 3].")
        return [part.tolist() for part in result]

    rest, held = parts(0)
    require(len(held), "Nothing is held out.")
    repeated = any(len({*map(tuple, part)}) < len(part) for part in (rest, held))
    require(not repeated, "Some inputs come twice in one part: they were drawn with replacement.")
    both = {*map(tuple, rest)} & {*map(tuple, held)}
    require(not both, both and f"{len(both)} inputs are in both parts, for example {sorted(both)[0]}.")
    lost = len(inputs) - len(rest) - len(held)
    require(not lost, f"{lost} of {len(inputs)} inputs are in neither part.")
    twins = {tuple(sorted(row)) for row in rest} & {tuple(sorted(row)) for row in held}
    require(not twins, twins and f"{sorted(twins)[0]} is in both parts, in another order: decide for sorted numbers.")
    require(len(held) < len(rest), "The second part is the small one: it is held out.")
    triples = len({tuple(sorted(row)) for row in held})
    require(abs(triples - 7) <= 1, f"{triples} of 35 different triples are held out, a share of 0.2 is 7.")
    require(parts(0)[1] == held, "The same seed gives another split: draw with a generator that starts from `seed`.")
    require(any(parts(seed)[1] != held for seed in (1, 2)),
            "Every seed gives the same split: draw at random, with `seed`.")


@exercise("9.6 moved_and_stayed", difficulty=2, minutes=4)
def _(attempt):
    def rows(*values):
        return torch.tensor(values)

    # (predicted, label, base label): 4 of 5 right where the label changes, 1 of 4 where it stays
    batches = [(rows(1, 2, 7, 3), rows(1, 2, 3, 3), rows(0, 0, 3, 3)),
               (rows(5, 6, 7, 8), rows(4, 6, 7, 9), rows(4, 5, 8, 9)),
               (rows(2,), rows(3,), rows(2,))]
    moved, stayed = 4 / 5, 1 / 4
    result = call(attempt, batches)
    require(isinstance(result, (tuple, list)) and len(result) == 2,
            "return two numbers: the share right where the label changes, and where it stays.")
    result = [float(tensor_like(value, shape=(), dtype=None)) for value in result]
    close(result, [moved, stayed], wrong={
        "You returned inside the loop: only the first batch was counted.": [1.0, 1 / 2],
        "You compare with the label before the swap.": [1 / 5, 1 / 4],
        "The two numbers are exchanged: first the rows whose label changes.": [stayed, moved],
        "Averages of batches: the last batch is smaller, and its rows count more. Count rows.": [2 / 3, 1 / 4],
        "These are shares of all rows: divide by the number of rows of each kind.": [4 / 9, 1 / 9],
        "These are counts: divide by the number of rows of each kind.": [4, 1]})


@lru_cache(maxsize=1)
def _found() -> Subspace:
    return random_subspace((3, 10), {"P": 4}, seed=123_456)


@exercise("9.7 fair_control", difficulty=2, minutes=3)
def _(attempt):
    found = _found()

    def drawn(seed: int) -> Subspace:
        result = call(attempt, found, seed)
        require(isinstance(result, Subspace), "expected a Subspace: alignment.random_subspace makes one.")
        require(tuple(result.shape) == found.shape and result.columns.shape[0] == 30,
                f"it belongs to an activation of {result.shape}, what was found to one of {found.shape}.")
        require(dict(result.ranks) == found.ranks and result.columns.shape[1] == 4,
                f"its ranks are {dict(result.ranks)}, what was found has {found.ranks}: with more or fewer directions "
                "a swap moves more or less, whatever they are.")
        require(result.error < 1e-4, "its columns are not orthonormal: a swap would move more than there is.")
        overlap = float((found.columns.T @ result.columns).square().sum()) / 4
        require(overlap < 0.9, "It spans what was found: this is no control.")
        return result

    one, other = drawn(0), drawn(1)
    require(torch.allclose(drawn(0).columns, one.columns),
            "The same seed gives other directions: draw with a generator that starts from `seed`.")
    require(not torch.allclose(one.columns, other.columns, atol=1e-3), "Every seed gives the same directions.")
    many = torch.stack([drawn(seed).columns.square().sum(1) for seed in range(12)]).mean(0)     # 4 / 30 on average
    require(many.min() > 0.02,
            "Some numbers of the activation are never swapped: draw directions of the whole activation.")


@exercise("9.8 share_explained", difficulty=3, minutes=5)
def _(attempt):
    def result(values, groups):
        return float(tensor_like(call(attempt, values, groups), shape=(), dtype=None))

    values = torch.tensor([[1.0, 10], [3, 10], [5, 10], [9, 10], [11, 10], [1, 16]])
    groups = torch.tensor([7, 7, 7, 4, 4, 4])
    # by hand: first column, means 3 and 7 around 5: 24 of 88; second column, means 10 and 12 around 11: 6 of 30
    right = 30 / 118
    close(result(values, groups), right, wrong={
        "That is the share within the groups.": 1 - right, "That is the square root of it.": right ** 0.5,
        "You averaged the columns' shares: add up the squares of all columns first, so that large columns count more.":
            (24 / 88 + 6 / 30) / 2,
        "Subtract the mean of all inputs first, from values and group means.": 906 / 994})
    uneven, sizes = torch.tensor([[0.0], [0], [0], [0], [6], [10]]), torch.tensor([0, 0, 0, 0, 1, 1])
    # means 0 and 8 around 16/6: 256/3 of 280/3; around their own middle, 4: 16 of 140/9
    close(result(uneven, sizes), 256 / 280, wrong={
        "Groups of different size count the same: each input should count once.": 144 / 140})
    close(result(values, torch.arange(6)), 1.0,
          message="If every input is a group of its own, all the variance lies between groups: 1.")
    close(result(values, torch.zeros(6, dtype=torch.long)), 0.0,
          message="With a single group nothing lies between groups: 0.")

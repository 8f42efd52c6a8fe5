"""Checks of notebook 10: the IIA graph, cliques, swaps that come free, scores of rules, coverage and faithfulness."""
from __future__ import annotations

import numbers

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from . import call, close, exercise, require, tensor_like
from .references.nb10 import free_swaps, joined, peel


# ---------------------------------------------------------------- 10.1 to 10.3: tables

def _random(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


@exercise("10.1 iia_graph", difficulty=2, minutes=4)
def _(attempt):
    inputs = _random(1, 11, 9, 3)
    rows = inputs.tolist()

    def table(label):
        return torch.tensor([[label(*base, *source) for source in rows] for base in rows])

    right = table(lambda a, b, c, x, y, z: x + y + c - 3)
    others = {
        "That is base and source the wrong way round: X+Y comes from the source (columns), Z from the base (rows).":
            right.T,
        "Class c stands for the total c + 3: you compared a class with a total.": right + 3,
        "That is where the network says the total of the base, as if nothing had been swapped.":
            table(lambda a, b, c, x, y, z: a + b + c - 3),
        "That is where the network says the total of the source: only X+Y comes from there.":
            table(lambda a, b, c, x, y, z: x + y + z - 3),
        "That is the graph of X+(Y+Z): here P is X+Y.": table(lambda a, b, c, x, y, z: a + y + z - 3),
        "That is the graph of (X+Z)+Y: here P is X+Y.": table(lambda a, b, c, x, y, z: x + b + z - 3)}
    # a network that says now this, now that
    said = torch.stack([right, *others.values()]).clamp(0, 27)
    predicted = said.gather(0, _random(0, len(said), 1, 9, 9, seed=1))[0]
    result = tensor_like(call(attempt, predicted, inputs), shape={"base": 9, "source": 9}, dtype=bool)
    close(result, predicted == right, wrong={text: predicted == label for text, label in others.items()} | {
        "True and False are the wrong way round.": predicted != right})


@exercise("10.2 joined", difficulty=1, minutes=3)
def _(attempt):
    for seed in range(3):
        success = _random(0, 2, 6, 6, seed=seed).bool()
        success[0, 0], success[1, 1] = True, False
        result = tensor_like(call(attempt, success), shape={"input": 6, "partner": 6}, dtype=bool)
        right = torch.tensor([[bool(success[i, j] and success[j, i]) and i != j for j in range(6)] for i in range(6)])
        rest = ~torch.eye(6, dtype=torch.bool)
        close(result, right, wrong={
            "One direction is enough for you: both must succeed.": (success | success.T) & rest,
            "One direction is enough for you, and inputs are joined to themselves.": success | success.T,
            "Inputs are joined to themselves: clear the diagonal.": success & success.T,
            "Only one direction is looked at: base to source and source to base must both succeed.": success & rest,
            "Only the other direction is looked at: both must succeed.": success.T & rest,
            "Each pair is named once only: the table must be symmetric.": right.triu(),
            "These are the pairs that do not swap both ways.": ~right})


@exercise("10.3 free_swaps", difficulty=2, minutes=4)
def _(attempt):
    labels, own = _random(0, 4, 7, 7), _random(0, 4, 7, seed=1)
    result = tensor_like(call(attempt, labels, own), shape={"base": 7, "source": 7}, dtype=bool)
    right = torch.tensor([[int(labels[b, s]) in (int(own[b]), int(own[s])) for s in range(7)] for b in range(7)])
    base, source = labels == own[:, None], labels == own[None, :]
    close(result, right, wrong={
        "You compared with the base only: what a full patch gets for nothing is free too.": base,
        "You compared with the source only: what a subspace that does nothing gets right is free too.": source,
        "Base and source need not both have the right label: one is enough to make a swap free.": base & source,
        "These are the swaps that do not come free.": ~right,
        "You compared the own labels of base and source: look at the right label after the swap.":
            own[:, None] == own[None, :],
        "Base and source changed places: `labels` was transposed.": free_swaps(labels.T, own)})


# ---------------------------------------------------------------- 10.4: a finder

def _graph(n: int, edges) -> Bool[Tensor, "input input"]:
    graph = torch.zeros(n, n, dtype=torch.bool)
    for a, b in edges:
        graph[a, b] = graph[b, a] = True
    return graph


def _graphs() -> list[Bool[Tensor, "input input"]]:
    """A triangle beside a ring, a clique among inputs that are busier, no pairs, all pairs, some at random."""
    ring = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (2, 4), (4, 5), (4, 6), (5, 6)]
    busy = [(hub, leaf) for hub in (0, 1) for leaf in range(2, 12)]
    busy += [(a, b) for b in range(12, 16) for a in range(12, b)]
    dense = [joined(_random(0, 10, 24, 24, seed=seed) < 8) for seed in range(4)]
    return [_graph(7, ring), _graph(16, busy), _graph(3, []), ~torch.eye(6, dtype=torch.bool), *dense]


def _inputs(result, n: int) -> list[int]:
    """The members of an answer as whole numbers, whatever holds them."""
    found = result.tolist() if hasattr(result, "tolist") else result
    kind = type(result).__name__
    require(isinstance(found, (list, tuple, set, frozenset)), f"return a list of inputs, not something of type {kind}.")
    for member in found:
        require(isinstance(member, (numbers.Real, Tensor)), f"{member!r} is no input: return the numbers of inputs.")
        require(float(member).is_integer() and 0 <= member < n,
                f"{float(member):.2g} is no input (they are 0 to {n - 1}): is a running time among them?")
    found = [int(member) for member in found]
    require(len(set(found)) == len(found), "an input is in the list twice.")
    return found


@exercise("10.4 peel", difficulty=3, minutes=6)
def _(attempt):
    for graph in _graphs():
        found = _inputs(call(attempt, graph), len(graph))
        require(len(found) > 0, "nothing is left: stop when all that are left are partners; one alone is a clique.")
        apart = [f"{a} and {b}" for a in found for b in found if a < b and not graph[a, b]]
        require(not apart, f"inputs {''.join(apart[:1])} are in your clique and are no partners: count partners among "
                "those that are left, anew in every round.")
        best = len(peel(graph))
        require(len(found) >= best, f"you found a clique of {len(found)} where taking the fewest partners away first "
                f"leaves {best}: which input do you take away, and when do you stop?")


# ---------------------------------------------------------------- 10.5: a tree that notes what it is shown

class _Tree:
    """In the place of a decision tree. Column 0 numbers the inputs; it knows what it was grown on, guesses the rest."""

    def __init__(self, truth: Bool[np.ndarray, "input"]):
        self.truth, self.grown, self.asked = truth, [], []

    def __call__(self, columns, inside):
        require(getattr(columns, "ndim", 0) == 2, "give `grow` a table of columns, [input, feature].")
        self.grown = [int(i) for i in np.asarray(columns)[:, 0]]
        same = len(inside) == len(self.grown) and bool((np.asarray(inside) == self.truth[self.grown]).all())
        require(same, "the columns and the labels that `grow` gets belong to different inputs.")
        return self

    def predict(self, columns):
        self.asked = [int(i) for i in np.asarray(columns)[:, 0]]
        return self.truth[self.asked] ^ (self.errs[self.asked] & ~np.isin(self.asked, self.grown))

    @property
    def errs(self) -> Bool[np.ndarray, "input"]:
        """Where its guess is wrong: on a fifth of the inputs inside, on half of those outside."""
        return np.arange(len(self.truth)) * 7 % 10 < np.where(self.truth, 2, 5)

    def score(self, columns, inside):
        return float((self.predict(columns) == np.asarray(inside)).mean())


def _test_set(tree: _Tree, n: int) -> np.ndarray:
    """Which inputs the tree was tested on; complains about those that it had seen."""
    require(tree.grown and tree.asked, "use `grow(columns, inside)` to make a tree, its `predict(columns)` to test it.")
    require(len(set(tree.grown)) == len(tree.grown), "drawn with replacement: some inputs are in the training twice.")
    asked = tree.asked if len(set(tree.asked)) < n else sorted(set(range(n)) - set(tree.grown))
    again = len(set(asked) & set(tree.grown))
    require(len(tree.grown) < n, "the tree was grown on all inputs: nothing is held out.")
    require(not again, f"the tree was tested on {again} inputs that it was grown on.")
    require(len(set(asked)) == len(asked), "drawn with replacement: some inputs are in the test twice.")
    require(0.2 < len(asked) / n < 0.4, f"{len(asked) / n:.0%} of the inputs are held out, not 30 %.")
    return np.array(asked)


@exercise("10.5 held_out_score", difficulty=3, minutes=6)
def _(attempt):
    n, tests = 200, []
    inside = np.random.default_rng(1).permutation(n) < 50
    columns = np.stack([np.arange(n), np.arange(n) % 7, np.arange(n) % 3], 1)
    for seed in (0, 1):
        tree = _Tree(inside)
        result = call(attempt, tree, columns, inside, seed)
        test = _test_set(tree, n)
        right, within = ~tree.errs[test], inside[test]
        require(within.any() and not within.all(), "the test inputs are all of one kind: draw them at random.")
        close(result, (right[within].mean() + right[~within].mean()) / 2, wrong={
            "That is the share of all test inputs that is right: the larger class decides it. Average over classes.":
                right.mean(),
            "That is the share that is right inside only.": right[within].mean(),
            "That is the share that is right outside only.": right[~within].mean(),
            "The two shares were added, not averaged.": right[within].mean() + right[~within].mean(),
            "That is the share that is wrong.": 1 - (right[within].mean() + right[~within].mean()) / 2})
        tests.append(set(test.tolist()))
    require(tests[0] != tests[1], "every seed holds out the same inputs: draw them with `seed`.")
    overlap = tests[0] & tests[1]
    require(len(overlap) < 0.8 * len(tests[0]), "two seeds hold out almost the same inputs: draw them at random.")


# ---------------------------------------------------------------- 10.6: coverage and faithfulness

def _pooled(found: dict[str, list[bool]]) -> float:
    """The share of successes among all pairs of all parts."""
    return sum(map(sum, found.values())) / sum(map(len, found.values()))


def _mean_of_parts(found: dict[str, list[bool]]) -> float:
    """The mean, over the parts that have pairs, of each part's own share of successes."""
    return float(np.mean([np.mean(pairs) for pairs in found.values() if pairs]))


@exercise("10.6 cover", difficulty=3, minutes=6)
def _(attempt):
    n, parts = 12, {"a": [0, 1, 2, 3, 4], "b": [3, 4, 5, 6, 7, 8], "c": [10]}
    success = {name: _random(0, 3, n, n, seed=seed) > 0 for seed, name in enumerate(parts)}
    for table in success.values():
        table.fill_diagonal_(True)
    result = call(attempt, success, parts)
    require(np.ndim(result) == 1 and len(result) == 2, "return two numbers: coverage and faithfulness.")
    coverage, faithfulness = (torch.as_tensor(value, dtype=torch.float64) for value in result)
    close(coverage, 10 / 12, wrong={
        "The coverage counts inputs 3 and 4 twice: they are in two parts.": 12 / 12,
        "The coverage counts inputs in one part only: 3 and 4 belong to the first part that names them.": 8 / 12,
        "The coverage is a share of all inputs: divide by their number.": 10,
        "The coverage leaves out the part of a single input: it is covered too.": 9 / 12})
    owned = {"a": [0, 1, 2, 3, 4], "b": [5, 6, 7, 8], "c": [10]}

    def counted(given, same):
        return {name: [bool(success[name][i, j]) for i in part for j in part if same or i != j]
                for name, part in given.items()}

    right = counted(owned, False)
    of = {i: name for name, part in owned.items() for i in part}
    close(faithfulness, _pooled(right), wrong={
        "The faithfulness counts what an input does with itself.": _pooled(counted(owned, True)),
        "Inputs 3 and 4 are counted in two parts; they belong to the first.": _pooled(counted(parts, False)),
        "Inputs 3 and 4 are counted in two parts, and so is what an input does with itself.":
            _pooled(counted(parts, True)),
        "That is a mean over parts, in which a small part weighs as much as a large one: add up successes and pairs.":
            _mean_of_parts(right),
        "That is a mean over parts, and what an input does with itself is counted.":
            _mean_of_parts(counted(owned, True)),
        "That is a mean over parts, and both doubles and what an input does with itself are counted.":
            _mean_of_parts(counted(parts, True)),
        "Inputs 3 and 4 belong to the first part that names them, not to the last.":
            _pooled(counted({"a": [0, 1, 2], "b": parts["b"], "c": [10]}, False)),
        "Pairs across parts are counted: the combination says nothing about them.":
            float(np.mean([bool(success[of[i]][i, j]) for i in of for j in of if i != j]))})

"""Rules that say in words which inputs a clique holds: a decision tree, scored on inputs it has not seen.

The features are those of the thesis before Pislar et al. 2025, arXiv 2503.11429: X, Y, Z, parities, sums of pairs, the
total. Its code keeps as many inputs outside as inside to balance the classes; here all count, and both classes weigh
the same.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int

from ..errors import CourseError
from ..metrics import Interval, share
from .cliques import Clique, Given

Member = Bool[np.ndarray, "input"]
FEWEST = 20         # inputs on each side of a comparison


def features(inputs: Given) -> dict[str, Int[np.ndarray, "input"]]:
    """What a rule may speak of: X, Y, Z, the sum of each pair, the total, and whether X, Y, Z are even (1) or odd (0).

    Raises CourseError unless there are three columns.
    """
    inputs = torch.as_tensor(inputs).cpu().numpy()
    if inputs.ndim != 2 or inputs.shape[1] != 3:
        raise CourseError(f"the features are made of three numbers X, Y, Z, but the inputs have the shape "
                          f"{list(inputs.shape)}")
    x, y, z = inputs.T
    return {"X": x, "Y": y, "Z": z, "X+Y": x + y, "X+Z": x + z, "Y+Z": y + z, "X+Y+Z": x + y + z,
            "X is even": 1 - x % 2, "Y is even": 1 - y % 2, "Z is even": 1 - z % 2}


@dataclass(frozen=True)
class Rule:
    """One leaf of the tree. held_out: unseen inputs that fall under it; correct: how many of these it is right
    about."""
    conditions: tuple[str, ...]
    inside: bool
    held_out: int
    correct: int

    def __str__(self) -> str:
        where = " and ".join(self.conditions) or "always"
        verdict = "inside " if self.inside else "outside"
        return f"{verdict} if {where} (right on {self.correct} of {self.held_out} held-out inputs)"


@dataclass(frozen=True)
class Rules:
    """Rules for inputs inside against outside a clique.

    score: balanced accuracy on held-out inputs (the mean over inside and outside of the share that is right; guessing
    gives 0.5), its 95 % interval. control: the same for trees grown on shuffled labels; the mean, and the interval that
    holds 95 % of the shuffles. held_out: rows of the inputs that were kept out. predicted: the verdict on every input,
    [input].
    """
    rules: tuple[Rule, ...]
    score: Interval
    control: Interval
    held_out: tuple[int, ...]
    predicted: Member

    def __str__(self) -> str:
        return "\n".join([f"balanced accuracy on {len(self.held_out)} held-out inputs {self.score}",
                          f"same with shuffled labels {self.control}", *map(str, self.rules)])


def find_rules(inside: Given | Clique, described: Mapping[str, Int[np.ndarray, "input"]], *, depth: int = 3,
               smallest: int = 5, held_out: float = 0.3, shuffles: int = 50, seed: int = 0) -> Rules:
    """Grow a decision tree (scikit-learn) on a part of the inputs and score it on the `held_out` share.

    described: whole-numbered features of the inputs, e.g. `features(inputs)`. depth: conditions in a row; smallest:
    inputs in a leaf. Both classes weigh the same. The control shuffles who is inside, then does everything again.
    Raises CourseError for features of other lengths, or fewer than 20 inputs inside or outside.
    """
    inside = members(inside)
    for name, column in described.items():
        if len(column) != len(inside):
            raise CourseError(f"the feature {name!r} has {len(column)} values, but there are {len(inside)} inputs")
    require_enough(inside, "inside", "outside")
    if not 0 < held_out < 1 or depth < 1:
        raise CourseError(f"held_out={held_out}, depth={depth}: hold out a share between 0 and 1, and let the tree be "
                          "1 or deeper")
    from sklearn.metrics import balanced_accuracy_score     # half a second to import

    columns, rng = np.stack(list(described.values()), 1), np.random.default_rng(seed)
    test = _held_out(inside, held_out, rng)
    tree = _grow(columns[~test], inside[~test], depth, smallest)
    predicted = tree.predict(columns)
    control = []
    for _ in range(shuffles):
        dealt = rng.permutation(inside)
        apart = _held_out(dealt, held_out, rng)
        guess = _grow(columns[~apart], dealt[~apart], depth, smallest).predict(columns[apart])
        control.append(balanced_accuracy_score(dealt[apart], guess))
    score = _balanced(predicted[test], inside[test])
    chance = Interval(np.mean(control), *np.quantile(control, [0.025, 0.975]))
    leaves = _leaves(tree, list(described), columns[test], inside[test])
    return Rules(tuple(leaves), score, chance, tuple(test.nonzero()[0].tolist()), predicted)


def members(inside: Given | Clique) -> Member:
    return inside.mask if isinstance(inside, Clique) else np.asarray(torch.as_tensor(inside).cpu()).astype(bool)


def require_enough(inside: Member, yes: str, no: str) -> None:
    if min(inside.sum(), (~inside).sum()) < FEWEST:
        raise CourseError(f"{inside.sum()} inputs are {yes} and {(~inside).sum()} {no}: a comparison needs "
                          f"{FEWEST} of each or more")


def _held_out(inside: Member, share: float, rng: np.random.Generator) -> Member:
    """A random `share` of the inputs inside and of those outside. Raises CourseError if a side would be without any."""
    from sklearn.model_selection import train_test_split

    fewest = min(inside.sum(), (~inside).sum())
    if min(share, 1 - share) * fewest < 1:
        raise CourseError(f"held_out={share} leaves nothing of {fewest} inputs on one side: choose {1 / fewest:.2f} to "
                          f"{1 - 1 / fewest:.2f}")
    rows = np.arange(len(inside))
    chosen = train_test_split(rows, test_size=share, stratify=inside, random_state=int(rng.integers(2**31)))[1]
    return np.isin(rows, chosen)


def _grow(columns, inside: Member, depth: int, smallest: int):
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=smallest, class_weight="balanced", random_state=0)
    return tree.fit(columns, inside)


def _balanced(predicted: Member, inside: Member) -> Interval:
    """Balanced accuracy; its interval from those of the shares that are right inside and outside (Newcombe 1998)."""
    from sklearn.metrics import balanced_accuracy_score

    mean = balanced_accuracy_score(inside, predicted)
    one, other = share(predicted[inside]), share(~predicted[~inside])
    return Interval(mean, mean - np.hypot(one.estimate - one.low, other.estimate - other.low) / 2,
                    mean + np.hypot(one.high - one.estimate, other.high - other.estimate) / 2)


def _leaves(tree, names: Sequence[str], columns, inside: Member) -> list[Rule]:
    """The branches of the tree that end in one verdict as rules, those that say "inside" first."""
    parts, reached = tree.tree_, tree.decision_path(columns).toarray().astype(bool)
    found = []

    def verdicts(node: int) -> set[bool]:
        if parts.children_left[node] < 0:
            return {bool(tree.classes_[parts.value[node].argmax()])}
        return verdicts(parts.children_left[node]) | verdicts(parts.children_right[node])

    def walk(node: int, bounds: dict[str, tuple[float, float]]) -> None:
        ends = verdicts(node)
        if len(ends) == 1:
            here, verdict = inside[reached[:, node]], ends.pop()
            conditions = tuple(_condition(name, *bound) for name, bound in bounds.items())
            found.append(Rule(conditions, verdict, len(here), int((here == verdict).sum())))
            return
        name, cut = names[parts.feature[node]], np.floor(parts.threshold[node])
        low, high = bounds.get(name, (-np.inf, np.inf))
        walk(parts.children_left[node], {**bounds, name: (low, min(high, cut))})
        walk(parts.children_right[node], {**bounds, name: (max(low, cut + 1), high)})

    walk(0, {})
    return sorted(found, key=lambda rule: not rule.inside)


def _condition(name: str, low: float, high: float) -> str:
    """Bounds of a whole number in words; a feature called "... is even" is 1 or 0."""
    if name.endswith(" is even"):
        return name if low == 1 else name.replace("even", "odd")
    if low == high:
        return f"{name} is {low:.0f}"
    if np.isinf(low):
        return f"{name} is at most {high:.0f}"
    return f"{name} is at least {low:.0f}" if np.isinf(high) else f"{name} is {low:.0f} to {high:.0f}"

"""Fewer forward passes: finding the few groups or pairs that matter among many, and drawing masks that err less.

`bisect` drops half of the groups, then half of that half, and looks no further into a set whose effect is small (group
testing; Dorfman 1943, doi 10.1214/aoms/1177731363). Of n groups of which k matter it measures at most about
2k (1 + log2(n / k)) masks, where leave-one-out takes n + 1. `bisect_pairs` does the same with the interactions of sets.

It is right where no set that holds an important group is quiet. It fails where effects of opposite sign cancel in every
set they share, and it saves nothing where many groups matter. Another order (`seed`) makes other sets: compare two.
"""
from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Float

from ..errors import CourseError, check_arguments
from .importance import Estimate, Game, exact_shapley, kernel_shap, shapley, standard_error, tidy
from .sampling import STRATEGIES, block_of_orders

Set = tuple[int, ...]
Split = tuple[Set, Set]


@dataclass(frozen=True, eq=False)
class Search(Estimate):
    """An `Estimate` of what was found, and of nothing else: the rest is taken to be worth less than `threshold`.

    exhaustive: passes of the sweep that it replaces (leave-one-out or keep-one; all second differences).
    unexplained: the splits of a set whose halves interact, so that its effect is not the sum of theirs (first, second,
    interaction, standard_error); below 0 they back each other up.
    """
    threshold: float
    exhaustive: int
    unexplained: pd.DataFrame

    @property
    def share(self) -> float:
        """Passes needed, as a share of the exhaustive sweep."""
        return self.passes / self.exhaustive


def bisect(game: Game, *, keep: bool = False, threshold: float | None = None, seed: int | None = None) -> Search:
    """The groups that leave-one-out (or keep-one, with `keep`) gives an effect above `threshold`, with that effect.

    threshold: in units of the outcome; None: 5 % of the effect of dropping all groups. seed: None halves the groups in
    their order, so that neighbours stay together; else in a random one.
    Two groups that back each other up are not found, as leave-one-out does not find them: they show as `unexplained`,
    and `bisect_pairs` tells which they are. With `keep` each of them is found by itself, and those that need another
    are not.
    Raises CourseError for a threshold that is not above 0, or None where dropping everything has no effect.
    """
    effects = _Effects(game, threshold, keep)
    found, splits = _tree(effects, _order(game, seed))
    return _result("bisection", effects, [(g,) for g in found], [effects.of((g,)) for g in found], splits,
                   len(game.labels) + 1, seed)


def bisect_pairs(game: Game, *, threshold: float | None = None, seed: int | None = None) -> Search:
    """The pairs whose second difference is above `threshold`, with it; arguments as for `bisect`.

    Every pair is parted by exactly one split of the tree of sets. Where the halves of a split interact, the larger of
    the two is halved again, until two single groups are left. Not found: a pair within a set without an effect, and
    interactions of opposite sign that cancel.
    """
    effects, groups = _Effects(game, threshold, False), len(game.labels)
    if groups < 2:
        raise CourseError("an interaction needs two groups, and there is only one")
    splits = _tree(effects, _order(game, seed))[1]
    level, found = splits, []
    while level:
        effects.ask(s for a, b in level for s in (a, b, a + b))
        loud = [pair for pair in level if effects.loud(effects.interaction(*pair))]
        found += [(min(a + b), max(a + b)) for a, b in loud if len(a) == len(b) == 1]
        larger_first = [(a, b) if len(a) >= len(b) else (b, a) for a, b in loud if len(a + b) > 2]
        level = [(half, b) for a, b in larger_first for half in _halves(a)]
    found.sort()
    return _result("pair bisection", effects, found, [effects.interaction((a,), (b,)) for a, b in found], splits,
                   1 + groups + groups * (groups - 1) // 2, seed)


class _Effects:
    """The effect, [prompt], of every set that was asked for: of dropping it, or (`keep`) of keeping nothing else."""

    def __init__(self, game: Game, threshold: float | None, keep: bool):
        self.game, self.keep, self.outcomes = game, keep, {}
        everything = tuple(range(len(game.labels)))
        self.ask([(), everything])
        total = abs(float(self.of(everything).mean()))
        if threshold is None and total == 0:
            raise CourseError("dropping all groups changes nothing, so nothing says what effect is small: give a "
                              "threshold")
        self.threshold = 0.05 * total if threshold is None else threshold
        if not self.threshold > 0:
            raise CourseError(f"the threshold must be above 0, not {threshold}")

    def ask(self, sets: Iterable[Set]) -> None:
        """Measure, as one batch of masks, the sets that are not known yet."""
        new = [s for s in dict.fromkeys(map(frozenset, sets)) if s not in self.outcomes]
        if new:
            inside = torch.tensor([[g in s for g in range(len(self.game.labels))] for s in new])
            self.outcomes |= zip(new, self.game(inside if self.keep else ~inside))

    def of(self, members: Set) -> Float[torch.Tensor, "prompt"]:
        gap = self.outcomes[frozenset()] - self.outcomes[frozenset(members)]
        return -gap if self.keep else gap

    def interaction(self, a: Set, b: Set) -> Float[torch.Tensor, "prompt"]:
        return (self.of(a + b) - self.of(a) - self.of(b)) * (1 if self.keep else -1)

    def loud(self, effect: Float[torch.Tensor, "prompt"]) -> bool:
        return abs(float(effect.mean())) > self.threshold


def _order(game: Game, seed: int | None) -> Set:
    groups = len(game.labels)
    if seed is None:
        return tuple(range(groups))
    return tuple(torch.randperm(groups, generator=torch.Generator().manual_seed(seed)).tolist())


def _halves(members: Set) -> Split:
    return members[:len(members) // 2], members[len(members) // 2:]


def _tree(effects: _Effects, everything: Set) -> tuple[list[int], list[Split]]:
    """The single groups with an effect, and the halves of every set with one."""
    found, splits, level = [], [], [everything]
    while level:
        effects.ask(level)
        loud = [s for s in level if effects.loud(effects.of(s))]
        found += [s[0] for s in loud if len(s) == 1]
        halved = [_halves(s) for s in loud if len(s) > 1]
        splits += halved
        level = [half for split in halved for half in split]
    return sorted(found), splits


def _result(method: str, effects: _Effects, cells: list[Set], values: list, splits: list[Split], exhaustive: int,
            seed: int | None) -> Search:
    prompts = len(effects.outcomes[frozenset()])
    per_prompt = torch.stack(values) if values else torch.zeros(0, prompts)
    cells = torch.tensor(cells).view(len(cells), -1 if cells else 1 + (method == "pair bisection"))
    table = tidy(method, effects.game, per_prompt, seed=seed, cells=cells)
    parts = [(a, b, effects.interaction(a, b)) for a, b in splits]
    rows = [(a, b, float(i.mean()), float(standard_error(i))) for a, b, i in parts if effects.loud(i)]
    unexplained = pd.DataFrame(rows, columns=["first", "second", "interaction", "standard_error"])
    return Search(method, table, per_prompt, len(effects.outcomes) * prompts, effects.threshold, exhaustive * prompts,
                  unexplained)


# ---------------------------------------------------------------- which masks to draw

def compare_sampling(game: Game, orders: Sequence[int] = (4, 8, 16, 32), *, repeats: int = 20,
                     seed: int = 0) -> pd.DataFrame:
    """Error against passes, for every strategy of `sampling`: one row for each method, strategy, number and repetition.

    Columns: method ("Shapley" from orders, "KernelSHAP" from about as many masks as these orders need), strategy,
    draws, seed, passes, error: the root mean square, over groups, of the distance to the exact Shapley values.
    Numbers of orders are rounded up to whole blocks, numbers of masks to what tells the groups apart.
    Raises CourseError for more than 12 groups, or fewer than one repetition.
    """
    if repeats < 1:
        raise CourseError(f"repeats must be at least 1, not {repeats}")
    groups, rows = len(game.labels), []
    exact = exact_shapley(game).table.estimate
    for strategy in STRATEGIES:
        block = block_of_orders(groups, strategy)
        whole = sorted({max(2, -(-number // block)) * block for number in orders})
        masks = sorted({max(8 * groups, number * (groups - 1) // 2 * 2) for number in orders})
        runs = [(shapley, number) for number in whole] + [(kernel_shap, number) for number in masks]
        for (estimator, draws), run in itertools.product(runs, range(seed, seed + repeats)):
            result = estimator(game, draws, strategy=strategy, seed=run)
            error = float(((result.table.estimate - exact) ** 2).mean() ** 0.5)
            rows.append((result.method, strategy, draws, run, result.passes, error))
    return pd.DataFrame(rows, columns=["method", "strategy", "draws", "seed", "passes", "error"])


check_arguments(globals())

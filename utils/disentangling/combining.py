"""Which algorithm on which input? From the IIA graph of a causal model to rules, and to several causal models together.

`success` is a table [base, source] over the same inputs: True where the interchange intervention gave the causal
model's label. Its cliques come from `utils.disentangling.cliques`, rules that say which inputs they hold from `utils.disentangling.rules`; both can
be imported from here. Here are the test of a claim about some inputs, and the trade of faithfulness against coverage
when each input may have its own causal model.

Source: Pislar et al. 2025, arXiv 2503.11429 (combining causal models), and the thesis before it (the claim).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ..errors import CourseError, require_known, whole_numbers
from ..metrics import Interval, bootstrap, share
from .cliques import (HEURISTICS, METHODS, Clique, Given, Success, checked, disjoint_cliques, find_clique, is_clique,
                      mutual, shuffled_pairs)
from .rules import Member, Rule, Rules, features, find_rules, members, require_enough

__all__ = ["Claim", "Clique", "Combination", "HEURISTICS", "METHODS", "Rule", "Rules", "TradeOff", "claim", "combine",
           "disjoint_cliques", "evaluate_parts", "features", "find_clique", "find_rules", "is_clique", "mutual",
           "share", "shuffled_pairs", "trade_off"]

Parts = Mapping[str, Sequence[int]]         # for each causal model the rows of the inputs it is said to explain


# ---------------------------------------------------------------- a claim about some inputs

@dataclass(frozen=True)
class Claim:
    """Share of inputs that are explained among the named ones, among the others, and the difference of the two."""
    named: Interval
    others: Interval
    difference: Interval

    def __str__(self) -> str:
        return f"explained: {self.named} of the named inputs, {self.others} of the others, difference {self.difference}"


def claim(explained: Given | Clique, named: Given) -> Claim:
    """Are the named inputs explained less often than the others? 95 % intervals: Wilson for a share, Newcombe 1998 for
    the gap.

    Inputs that share a clique are not independent, so the true intervals are wider. For the thesis: explained = inside
    a clique of any causal model; named = X, Y and Z all in {7, 8, 9, 10}, which it says no causal model explains.
    Raises CourseError for tables of different length, or fewer than 20 inputs on a side.
    """
    explained, named = members(explained), members(named)
    if len(explained) != len(named):
        raise CourseError(f"{len(explained)} inputs are explained or not, but {len(named)} are named or not: both must "
                          "speak of the same inputs")
    require_enough(named, "named", "not")
    one, other = share(explained[named]), share(explained[~named])
    gap = one.estimate - other.estimate
    return Claim(one, other, Interval(gap, gap - np.hypot(one.estimate - one.low, other.high - other.estimate),
                                      gap + np.hypot(one.high - one.estimate, other.estimate - other.low)))


# ---------------------------------------------------------------- several causal models

@dataclass(frozen=True)
class Combination:
    """Causal models, each for its own part of the inputs.

    coverage: share of all inputs that are in a part (Pislar et al. call it the strength of the hypothesis).
    faithfulness: IIA over ordered pairs of different inputs of the same part, all parts together, with a bootstrap
    interval over base inputs; NaN if there is no such pair. Pairs across parts are not counted: the combination says
    nothing about them.
    """
    parts: dict[str, tuple[int, ...]]
    coverage: float
    faithfulness: Interval

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {len(part)}" for name, part in self.parts.items()) or "no part"
        return f"coverage {self.coverage:.3f}, faithfulness {self.faithfulness} ({sizes})"


def evaluate_parts(success: Mapping[str, Given], parts: Parts, only: Sequence[int] | None = None,
                   seed: int = 0) -> Combination:
    """Faithfulness and coverage of given parts, e.g. of those that rules predict.

    only: count these inputs alone, e.g. held-out ones, in pairs and in coverage. Raises CourseError for an unknown
    causal model, an input that does not exist, or one that is in two parts.
    """
    tables, n = _tables(success)
    counted = np.arange(n) if only is None else _rows(only, n, "only")
    if not len(counted):
        raise CourseError("only=[] leaves no inputs to count: name at least two, or None for all")
    right, pairs, found, seen = [], [], {}, np.zeros(n, dtype=bool)
    for name, part in parts.items():
        require_known(name, tables, f"there is no IIA graph of {name!r}")
        rows = _rows(part, n, name)
        found[name] = tuple(rows.tolist())
        if seen[rows].any():
            raise CourseError(f"input {rows[seen[rows]][0]} is in two parts: each input belongs to one causal model at "
                              "most")
        seen[rows] = True
        rows = np.intersect1d(rows, counted)
        block = tables[name][np.ix_(rows, rows)]
        right.append(block.sum(1) - block.diagonal())
        pairs.append(np.full(len(rows), len(rows) - 1))
    right, pairs = (np.concatenate([np.zeros(0), *lists]) for lists in (right, pairs))
    if pairs.sum():
        faithfulness = bootstrap((right, pairs), _share_of_pairs, seed=seed)
    else:
        faithfulness = Interval(np.nan, np.nan, np.nan)
    return Combination(found, float(seen[counted].mean()), faithfulness)


def _share_of_pairs(right, pairs, axis: int):
    return right.sum(axis) / np.maximum(pairs.sum(axis), 1)     # a resample may hold no pair


def _tables(success: Mapping[str, Given]) -> tuple[dict[str, Success], int]:
    if not success:
        raise CourseError("there is no causal model to combine: give an IIA graph for at least one")
    tables = {name: checked(table) for name, table in success.items()}
    sizes = {name: len(table) for name, table in tables.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise CourseError(f"the IIA graphs speak of different numbers of inputs ({listed}): use the same for all")
    return tables, next(iter(sizes.values()))


def _rows(part: Sequence[int], n: int, name: str) -> np.ndarray:
    rows = np.unique(np.asarray(whole_numbers(part, name), dtype=int))
    if len(rows) and not 0 <= rows[0] <= rows[-1] < n:
        wrong = rows[-1] if rows[-1] >= n else rows[0]
        raise CourseError(f"{name} names the input {wrong}, but there are inputs 0 to {n - 1}")
    return rows


def combine(success: Mapping[str, Given], level: float, cliques: Mapping[str, Clique] | None = None) -> Combination:
    """Give each causal model a part of the inputs within which its IIA is at least `level`, to cover many inputs.

    Again and again the causal model with the largest such part gets it, and the others look among what is left. A part
    is found by taking away the input with the fewest successes until the level is reached, then adding what still fits;
    or, if that gives more, by growing a clique (`cliques`, found before). Both are greedy: a larger cover may exist.
    The paper grows parts in a fixed order of causal models and leaves the rest to the copy of the total, which explains
    every input if the network is right; such a graph wins here as well if you give it, so leave it out to see the
    others. Raises CourseError for a level outside 0 to 1 and for graphs that do not fit together.
    """
    tables, n = _tables(success)
    if not 0 <= level <= 1:
        raise CourseError(f"level={level} is no IIA: choose 0 to 1")
    weights = {name: _weights(table) for name, table in tables.items()}
    cores = {name: clique.mask for name, clique in (cliques or {}).items()}
    for name, core in cores.items():
        require_known(name, tables, f"there is a clique of {name!r} but no IIA graph")
        if len(core) != n:
            raise CourseError(f"the clique of {name!r} was found among {len(core)} inputs, but the graphs have {n}")
    free, parts = np.ones(n, dtype=bool), {}
    while len(parts) < len(tables):
        options = {name: _part(weights[name], free, level) for name in tables if name not in parts}
        for name in cores.keys() & options.keys():
            grown = _fill(weights[name], cores[name] & free, free, level)
            options[name] = max(options[name], grown, key=np.sum)
        name = max(options, key=lambda name: options[name].sum())
        if options[name].sum() < 2:
            break
        parts[name] = options[name].nonzero()[0].tolist()
        free &= ~options[name]
    return evaluate_parts(tables, parts)


def _weights(table: Success) -> Float[np.ndarray, "input input"]:
    """How many of the two directions of a pair succeed, 0, 1 or 2; 0 on the diagonal."""
    weights = table.astype(np.int32) + table.T
    np.fill_diagonal(weights, 0)
    return weights


def _part(weights: np.ndarray, free: Member, level: float) -> Member:
    """Peel: take away the worst input until the rest reaches the level; then fill up."""
    inside, links = free.copy(), weights @ free
    total, size = links[free].sum(), free.sum()
    while size > 1 and total < level * 2 * size * (size - 1) - 1e-9:
        worst = np.where(inside, links, np.iinfo(np.int32).max).argmin()
        inside[worst], total, size = False, total - 2 * links[worst], size - 1
        links = links - weights[worst]
    return _fill(weights, inside, free, level)


def _fill(weights: np.ndarray, inside: Member, free: Member, level: float) -> Member:
    """Add the free input with the most successes, one after the other, as long as the IIA stays at the level."""
    inside = inside.copy()
    links = weights @ inside
    total, size = links[inside].sum(), inside.sum()
    while size < free.sum():
        best = np.where(free & ~inside, links, -1).argmax()
        size, total = size + 1, total + 2 * links[best]
        if total < level * 2 * size * (size - 1) - 1e-9:
            break
        inside[best] = True
        links = links + weights[best]
    return inside


@dataclass(frozen=True)
class TradeOff:
    """Coverage that can be had at each level of faithfulness: by all causal models together, and by each alone.

    coverage: [level]; alone: {causal model: [level]}; control: [level], all together on graphs with shuffled pairs,
    which have as many successes but no structure.
    """
    levels: tuple[float, ...]
    combinations: tuple[Combination, ...]
    alone: dict[str, Float[np.ndarray, "level"]]
    control: Float[np.ndarray, "level"]

    @property
    def coverage(self) -> Float[np.ndarray, "level"]:
        return np.array([c.coverage for c in self.combinations])

    def __str__(self) -> str:
        names = ["together", *self.alone, "shuffled"]
        lines = ["level  " + "  ".join(f"{name:>9}" for name in names)]
        for i, level in enumerate(self.levels):
            values = [self.coverage[i], *(curve[i] for curve in self.alone.values()), self.control[i]]
            cells = (f"{value:>{max(9, len(name))}.3f}" for name, value in zip(names, values))
            lines.append(f"{level:<5.2f}  " + "  ".join(cells))
        return "\n".join(lines)


def trade_off(success: Mapping[str, Given], levels: Sequence[float] = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6),
              cliques: Mapping[str, Clique] | None = None, seed: int = 0) -> TradeOff:
    """`combine` at each level, for all causal models, for each alone, and for the shuffled control."""
    tables, _ = _tables(success)
    dealt = {name: shuffled_pairs(table, seed + i) for i, (name, table) in enumerate(tables.items())}

    def own(name):
        return {name: cliques[name]} if cliques and name in cliques else None

    return TradeOff(tuple(levels), tuple(combine(tables, level, cliques) for level in levels),
                    {name: np.array([combine({name: table}, level, own(name)).coverage for level in levels])
                     for name, table in tables.items()},
                    np.array([combine(dealt, level).coverage for level in levels]))

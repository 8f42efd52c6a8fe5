"""Ready-made causal models, their counterfactual data, and a drawing.

`CausalModel` itself lives in `utils.tasks.causal_graphs`. Sources: Geiger et al. 2024, arXiv 2303.02536 (distributed
alignment search, hierarchical equality, training on sampled counterfactuals); Pislar et al. 2025, arXiv 2503.11429
(sums of three numbers, wrong graphs).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Int

from ..errors import CourseError, require_known
from .causal_graphs import CausalModel, Inputs, validate_outputs

__all__ = ["ARITHMETIC", "CausalModel", "Counterfactuals", "Inputs", "PATTERNS", "SIMPLE", "SUMS", "addition",
           "counterfactuals", "draw", "hierarchical_equality", "pair_labels", "pattern", "sample_counterfactuals",
           "sample_inputs", "split", "validate_outputs"]

Labels = Int[torch.Tensor, "row"]
MOST_PAIRS = 10_000_000
ROUNDS = 20          # of drawing, before a share of changed labels is given up


# ---------------------------------------------------------------- ready-made

def _add(*values: int) -> int:
    return sum(values)


def _same(one: int, other: int) -> int:
    return int(one == other)


def _both(one: int, other: int) -> int:
    return int(one and other)


def _of_two_pairs(name: str, pairs: Sequence[str], function: Callable, formula: str, objects: int) -> CausalModel:
    return CausalModel(
        name, values={**dict.fromkeys("ABCD", range(objects)), **dict.fromkeys("PQO", (0, 1))},
        parents={"P": pairs[0], "Q": pairs[1], "O": "PQ"}, functions={"P": _same, "Q": _same, "O": function},
        formulas={"P": " == ".join(pairs[0]), "Q": " == ".join(pairs[1]), "O": formula})


def hierarchical_equality(objects: int = 20) -> CausalModel:
    """Four objects A B C D: are the first two equal (P), the last two (Q), and do these answers agree (O)?

    So AABB and ABCD are true (1), AABC is false. Premack 1983; Geiger et al. 2024, arXiv 2303.02536.
    """
    return _of_two_pairs("hierarchical equality", ("AB", "CD"), _same, "P == Q", objects)


PATTERNS = {"ABAB": ("AC", "BD"), "AABB": ("AB", "CD"), "ABBA": ("AD", "BC")}


def pattern(name: str, objects: int = 20) -> CausalModel:
    """Do four objects follow the pattern "ABAB", "AABB" or "ABBA"?

    P and Q compare the two pairs that must be equal, and both must be. In "ABAB" the first equals the third and the
    second equals the fourth. Four equal objects follow all three patterns.
    """
    require_known(name, PATTERNS, f"there is no pattern {name!r}")
    return _of_two_pairs(name, PATTERNS[name], _both, "P and Q", objects)


SUMS = {"(X+Y)+Z": "XY", "(X+Z)+Y": "XZ", "X+(Y+Z)": "YZ",
        "(X)+Y+Z": "X", "X+(Y)+Z": "Y", "X+Y+(Z)": "Z", "(X+Y+Z)": "XYZ"}
ARITHMETIC, SIMPLE = tuple(SUMS)[:3], tuple(SUMS)[3:]   # as Pislar et al. call the two families


def addition(name: str, low: int = 1, high: int = 10) -> CausalModel:
    """The sum of X, Y and Z, each `low` to `high`; the inner variable P is what stands in brackets in the name.

    "(X+Y)+Z", "(X+Z)+Y", "X+(Y+Z)" add two numbers first; "(X)+Y+Z", "X+(Y)+Z", "X+Y+(Z)" copy one number into P, and
    "(X+Y+Z)" the total. Class 0 of the output is the smallest total.
    """
    require_known(name, SUMS, f"there is no sum {name!r}")
    first = SUMS[name]
    rest = ["P", *(v for v in "XYZ" if v not in first)]

    def span(terms):
        return range(low * terms, high * terms + 1)

    return CausalModel(
        name, values={**dict.fromkeys("XYZ", span(1)), "P": span(len(first)), "O": span(3)},
        parents={"P": tuple(first), "O": rest}, functions={"P": _add, "O": _add},
        formulas={"P": " + ".join(first), "O": " + ".join(rest)})


# ---------------------------------------------------------------- counterfactual data

def require_rows(base, sources: Mapping, labels, base_labels) -> None:
    """Raise CourseError for an empty counterfactual set, or columns that differ in their number of rows."""
    if not len(base) or not sources:
        raise CourseError("the counterfactual set is empty: it needs at least one base, and a source for one variable or "
                          "more")
    parts = {f"sources of {v!r}": source for v, source in sources.items()}
    for what, part in {**parts, "labels": labels, "base labels": base_labels}.items():
        if len(part) != len(base):
            raise CourseError(f"there are {len(base)} base inputs but {len(part)} {what}: they belong together, row by "
                              "row")


@dataclass(frozen=True, eq=False)
class Counterfactuals:
    """Interchange interventions and the labels that the causal model gives them.

    base: [row, input]; sources: {variable: [row, input]}, the input each variable takes its value from; labels: [row],
    the class after the interchange; base_labels: [row], the class without it. Raises CourseError if there are no rows,
    if they differ in number, or for a label outside the classes.
    """
    model: CausalModel
    base: Inputs
    sources: Mapping[str, Inputs]
    labels: Labels
    base_labels: Labels

    def __post_init__(self):
        require_rows(self.base, self.sources, self.labels, self.base_labels)
        for labels in (self.labels, self.base_labels):
            if labels.min() < 0 or labels.max() >= self.model.classes:
                raise CourseError(f"there are labels from {labels.min()} to {labels.max()}, but the classes of "
                                  f"{self.model.name} are 0 to {self.model.classes - 1}")

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows) -> Counterfactuals:
        """Some of the rows: a slice, a mask or a tensor of row numbers."""
        return Counterfactuals(self.model, self.base[rows], {v: s[rows] for v, s in self.sources.items()},
                               self.labels[rows], self.base_labels[rows])

    @property
    def changed(self) -> Bool[torch.Tensor, "row"]:
        """Where the interchange changes the label. On all other rows a network that ignores the swap is right too."""
        return self.labels != self.base_labels

    def __str__(self) -> str:
        swapped, share = " and ".join(self.sources), self.changed.float().mean()
        return f"{len(self)} interchanges of {swapped} in {self.model.name}; {share:.0%} change the label"

    __repr__ = __str__


def counterfactuals(model: CausalModel, base: Inputs, sources: Mapping[str, Inputs]) -> Counterfactuals:
    """The labels of given interchanges. Raises CourseError as `CausalModel.run_interchange_batch` does."""
    after = model.run_interchange_batch(base, sources)
    return Counterfactuals(model, base, dict(sources), model.labels(after), model.labels(model.run_batch(base)))


def pair_labels(model: CausalModel, variable: str, inputs: Inputs | None = None) -> Int[torch.Tensor, "base source"]:
    """The label after swapping `variable` between every ordered pair of `inputs` (None: all of them), as one table.

    Raises CourseError for an unknown variable, or more than ten million pairs.
    """
    inputs = model.all_inputs() if inputs is None else inputs
    if len(inputs) ** 2 > MOST_PAIRS:
        raise CourseError(f"{len(inputs):,} inputs make {len(inputs) ** 2:,} pairs, more than {MOST_PAIRS:,}: give a "
                          "part of the inputs")
    model.require(variable, "the table is asked for")
    # a source matters only through the value it gives: one run for each value that occurs
    given, column = model.run_batch(inputs)[variable].unique(return_inverse=True)
    labels = [model.labels(model.run_batch(inputs, {variable: value.expand(len(inputs))})) for value in given]
    return torch.stack(labels, 1)[:, column]


# ---------------------------------------------------------------- sampling

def sample_inputs(model: CausalModel, rows: int, *, balance: Sequence[str] = (), among: Inputs | None = None,
                  seed: int = 0) -> Inputs:
    """Random inputs, with replacement.

    balance: variables whose combinations of values are drawn equally often (two of twenty objects are equal once in
    twenty draws: balance=("P", "Q") makes the four cases equally likely). among: the rows to draw from, None for every
    possible input. Raises CourseError for an unknown variable, no rows, or balance over more than a million inputs.
    """
    return _sampler(model, balance, among, torch.Generator().manual_seed(seed))(rows)


def _sampler(model: CausalModel, balance: Sequence[str], among: Inputs | None,
             generator: torch.Generator) -> Callable[[int], Inputs]:
    for variable in balance:
        model.require(variable, "balance names")
    if among is not None and not len(among):
        raise CourseError("there are no inputs to draw from: `among` is empty")
    if among is None and not balance:       # no list of all inputs needed
        columns = [torch.tensor(model.values[v]) for v in model.inputs]
        return lambda rows: torch.stack([c[torch.randint(len(c), (rows,), generator=generator)] for c in columns], 1)
    pool = model.all_inputs() if among is None else among
    weights = torch.ones(len(pool), dtype=torch.float64)
    if balance:
        values = model.run_batch(pool)
        values = torch.stack([values[v] for v in balance], 1)
        _, group, size = values.unique(dim=0, return_inverse=True, return_counts=True)
        weights = 1 / size[group].double()
    return lambda rows: pool[torch.multinomial(weights, rows, replacement=True, generator=generator)]


def sample_counterfactuals(model: CausalModel, variables: str | Sequence[str], rows: int, *,
                           changed: float | None = 0.5, balance: Sequence[str] = (), among: Inputs | None = None,
                           seed: int = 0) -> Counterfactuals:
    """Random interchanges of `variables`, all at the same time, each with a source of its own; rows in random order.

    changed: the share of rows whose label the interchange changes (exactly, up to rounding); None takes rows as they
    come, and then labels may change so rarely that a network that ignores the swap scores high. balance, among: see
    `sample_inputs`; they hold for bases and sources before rows are chosen by `changed`.
    Raises CourseError for a share that these inputs do not give, and as `sample_inputs` does.
    """
    variables = [variables] if isinstance(variables, str) else list(variables)
    if rows < 1 or not variables:
        raise CourseError("the counterfactual set would be empty: ask for at least one row and one variable")
    if changed is not None and not 0 <= changed <= 1:
        raise CourseError(f"changed={changed} is no share of the rows: choose 0 to 1, or None to take rows as they "
                          "come")
    generator = torch.Generator().manual_seed(seed)
    draw_inputs = _sampler(model, balance, among, generator)

    def draw(size):
        return counterfactuals(model, draw_inputs(size), {v: draw_inputs(size) for v in variables})

    if changed is None:
        return draw(rows)
    quota = {True: round(changed * rows), False: rows - round(changed * rows)}
    parts, found = [], {True: 0, False: 0}
    for _ in range(ROUNDS):
        data = draw(2 * rows + 1000)
        for side in (True, False):
            wanted = (data.changed == side).nonzero().flatten()[:quota[side] - found[side]]
            if len(wanted):
                parts.append(data[wanted])
                found[side] += len(wanted)
        if found == quota:
            return _joined(parts)[torch.randperm(rows, generator=generator)]
    side = found[True] < quota[True]
    raise CourseError(f"of {ROUNDS * len(data):,} random interchanges only {found[side]} "
                      f"{'change' if side else 'keep'} the label, but changed={changed} needs {quota[side]}: choose "
                      "another share, fewer rows or other inputs")


def _joined(parts: Sequence[Counterfactuals]) -> Counterfactuals:
    sources = {v: torch.cat([part.sources[v] for part in parts]) for v in parts[0].sources}

    def together(name):
        return torch.cat([getattr(part, name) for part in parts])

    return Counterfactuals(parts[0].model, together("base"), sources, together("labels"), together("base_labels"))


def split(inputs: Inputs, share: float = 0.2, seed: int = 0) -> tuple[Inputs, Inputs]:
    """Two parts without a common row, each sorted: the rest, and a random `share` that is held out.

    Counterfactuals for training are sampled `among` the first part, those for the score among the second; the code of
    the thesis draws both from the same inputs. Raises CourseError if a part would be empty.
    """
    inputs = torch.as_tensor(inputs).unique(dim=0)
    number = round(share * len(inputs))
    if not 0 < number < len(inputs):
        raise CourseError(f"a share of {share} of {len(inputs)} inputs leaves one part empty: choose a share between 0 "
                          "and 1, and more inputs than one")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    return inputs[order[number:].sort().values], inputs[order[:number].sort().values]


# ---------------------------------------------------------------- a drawing

def _layout(model: CausalModel) -> dict[str, tuple[float, int]]:
    """(x, floor) of every variable: above the middle of its parents, moved aside where an arrow would cross another."""
    places = {v: (float(i), 0) for i, v in enumerate(model.inputs)}
    for variable in model.variables[len(places):]:
        parents, floor = [places[p] for p in model.parents[variable]], model.floors[variable]

        def crowded(x: float) -> bool:
            def at(parent, level):
                return parent[0] + (x - parent[0]) * (level - parent[1]) / (floor - parent[1])

            return any(abs(other - x) < 1.8 if level == floor else
                       any(parent[1] < level and abs(other - at(parent, level)) < 0.4 for parent in parents)
                       for other, level in places.values())

        x = sum(parent[0] for parent in parents) / len(parents)
        places[variable] = (next(x + 0.3 * step for step in range(1000) if not crowded(x + 0.3 * step)), floor)
    return places


def draw(model: CausalModel, highlight: Sequence[str] = (), title: str | None = None, ax=None):
    """The graph as a matplotlib figure: inputs at the bottom, the output on top, `highlight`ed variables in orange."""
    import matplotlib.pyplot as plt
    import networkx

    for variable in highlight:
        model.require(variable, "highlight names")
    graph = networkx.DiGraph()
    graph.add_nodes_from(model.variables)
    graph.add_edges_from((parent, v) for v in model.variables for parent in model.parents[v])
    places = _layout(model)
    figure = ax.figure if ax is not None else plt.figure(figsize=(4.4, 3.2), facecolor="white")
    axes = ax if ax is not None else figure.add_subplot()
    networkx.draw_networkx(graph, places, ax=axes, node_size=900, arrowsize=14, edgecolors="black",
                           edge_color="#444444", node_color=["#de8f05" if v in highlight else "white" for v in graph])
    for variable in model.variables:
        if variable in model.formulas:
            axes.annotate(f"= {model.formulas[variable]}", places[variable], (18, 0), textcoords="offset points",
                          va="center")
    axes.set(title=model.name if title is None else title)
    axes.margins(0.18)
    axes.axis("off")
    return figure

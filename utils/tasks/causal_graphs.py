"""Causal models: an algorithm as variables that are computed from one another.

A variable has a few values (integers; False and True are 0 and 1), parents, and a function of its parents; those
without parents are the inputs, and one variable is the output. An *interchange intervention* runs the algorithm on a
base input, but gives one variable the value that it has on a source input. The answer is the counterfactual label: what
a network should say after the same swap inside it, if it works like this algorithm.

Source: Geiger et al. 2021, arXiv 2106.02997. Import it from `utils.tasks`, where ready-made ones are.
"""
from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Callable, Mapping, Sequence

import torch
from jaxtyping import Int

from ..errors import CourseError, require_known

Inputs = Int[torch.Tensor, "row input"]     # one column for each input variable, in the order of `model.inputs`
MOST = 1_000_000                            # entries of the table of a function, rows of all inputs


@dataclass(frozen=True, eq=False, repr=False)
class CausalModel:
    """An algorithm. Its variables are the keys of `values`; nothing is random.

    values: the values each variable may take. parents, functions: for each variable that is not an input, the variables
    it is computed from and a function of their values, in that order. output: None for the only variable without
    children. formulas: what a function computes, in words for people ("X + Y"); used when the model is printed or
    drawn.

    Every function is called once for every combination of its parents' values, here, and remembered as a table: so a
    value out of range is found at once, and many rows are computed by look-up. Raises CourseError for a cycle, a parent
    or function that belongs to no variable, a missing function, values that are no integers or come twice, a function
    that leaves the range of its variable or cannot be called, and several possible outputs.
    """
    name: str
    values: Mapping[str, Sequence[int]]
    parents: Mapping[str, Sequence[str]]
    functions: Mapping[str, Callable[..., int]]
    output: str | None = None
    formulas: Mapping[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = field(init=False)          # inputs first, parents before children
    floors: dict[str, int] = field(init=False)              # 0 for an input, else one above the highest parent

    def __post_init__(self):
        for variable, values in self.values.items():
            _require_values(variable, values)
        for variable in (*self.parents, *self.functions, *self.formulas):
            self.require(variable, "parents, functions or formulas name")
        object.__setattr__(self, "values", {v: tuple(map(int, values)) for v, values in self.values.items()})
        object.__setattr__(self, "parents", {v: self._checked_parents(v) for v in self.values})
        try:
            order = tuple(TopologicalSorter(self.parents).static_order())
        except CycleError as error:
            around = " -> ".join(error.args[1])
            raise CourseError(f"the variables {around} form a cycle: a causal model needs an order in which each "
                              "variable comes after its parents") from None
        floors: dict[str, int] = {}
        for v in order:
            floors[v] = 1 + max((floors[p] for p in self.parents[v]), default=-1)
        order = tuple(sorted(self.values, key=floors.get))      # on one floor as they were written
        object.__setattr__(self, "floors", floors)
        object.__setattr__(self, "variables", order)
        object.__setattr__(self, "output", self._checked_output())
        object.__setattr__(self, "_tables", {v: self._tabulate(v) for v in order if self.parents[v]})

    # ------------------------------------------------------------ what it is made of

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Variables without parents, in the order of `values`: the columns of `Inputs`."""
        return tuple(v for v in self.values if not self.parents[v])

    @property
    def inner(self) -> tuple[str, ...]:
        """Variables between inputs and output: those whose place in a network is looked for."""
        return tuple(v for v in self.variables if self.parents[v] and v != self.output)

    @property
    def classes(self) -> int:
        """The number of values of the output. Labels are 0 to classes - 1, in the order of these values."""
        return len(self.values[self.output])

    def __str__(self) -> str:
        lines = [f"{self.name}: {', '.join(self.inputs)} -> {self.output}"]
        for variable in self.variables:
            made_of = self._formula(variable)
            lines.append(f"  {variable} is {_span(self.values[variable])}" + (f", {made_of}" if made_of else ""))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CausalModel({self.name}: {', '.join(self.inputs)} -> {self.output})"

    def _formula(self, variable: str) -> str:
        if not self.parents[variable]:
            return ""
        return self.formulas.get(variable) or f"computed from {', '.join(self.parents[variable])}"

    # ------------------------------------------------------------ one input

    def run(self, inputs: Mapping[str, int], do: Mapping[str, int] | None = None) -> dict[str, int]:
        """The values of all variables. inputs: a value for each input. `do` sets variables, whatever their parents say.

        Raises CourseError for a missing or unknown variable, and for a value out of range.
        """
        for variable in inputs:
            self.require(variable, "the input names")
            if self.parents[variable]:
                raise CourseError(f"{variable!r} is computed from {', '.join(self.parents[variable])}, so it is no "
                                  "input: to set it, use do={...}")
        missing = [v for v in self.inputs if v not in inputs]
        if missing:
            raise CourseError(f"the input lacks {', '.join(missing)}: give a value for each of "
                              f"{', '.join(self.inputs)}")
        row = torch.tensor([[_integer(v, inputs[v]) for v in self.inputs]])
        settings = {v: torch.tensor([_integer(v, value)]) for v, value in (do or {}).items()}
        return {v: int(value) for v, value in self.run_batch(row, settings).items()}

    def run_interchange(self, base: Mapping[str, int], sources: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
        """The values of all variables on `base`, but each variable of `sources` has the value of its own source run.

        Raises CourseError as `run` does.
        """
        for variable in sources:
            self.require(variable, "the sources name")
        return self.run(base, {variable: self.run(source)[variable] for variable, source in sources.items()})

    # ------------------------------------------------------------ many inputs

    def run_batch(self, inputs: Inputs, do: Mapping[str, Int[torch.Tensor, "row"]] | None = None
                  ) -> dict[str, Int[torch.Tensor, "row"]]:
        """`run` for many rows. Raises CourseError for other numbers of columns or rows, or a value out of range."""
        inputs = self._checked_rows(inputs, "the input")
        places = {}
        for variable, setting in (do or {}).items():
            self.require(variable, "do={...} names")
            setting = torch.as_tensor(setting).cpu()
            if setting.shape != inputs.shape[:1]:
                raise CourseError(f"{variable!r} is set to a tensor of shape {list(setting.shape)}, but there are "
                                  f"{len(inputs)} rows of inputs: give one value for each row")
            places[variable] = self._places(variable, setting)
        for column, variable in enumerate(self.inputs):
            own = self._places(variable, inputs[:, column])     # even if it is set: a wrong input is a mistake
            places.setdefault(variable, own)
        for variable in self.variables:
            if variable not in places:
                places[variable] = self._tables[variable][tuple(places[p] for p in self.parents[variable])]
        return {v: torch.tensor(self.values[v])[places[v]] for v in self.variables}

    def run_interchange_batch(self, base: Inputs, sources: Mapping[str, Inputs]) -> dict[str, Int[torch.Tensor, "row"]]:
        """`run_interchange` for many rows. sources: for each variable, one source input for each row of `base`."""
        base = self._checked_rows(base, "the base")
        do = {}
        for variable, source in sources.items():
            self.require(variable, "the sources name")
            source = self._checked_rows(source, f"the source of {variable!r}")
            if len(source) != len(base):
                raise CourseError(f"there are {len(base)} base inputs but {len(source)} sources of {variable!r}: "
                                  "each base needs one source")
            do[variable] = self.run_batch(source)[variable]
        return self.run_batch(base, do)

    def labels(self, values: Mapping[str, Int[torch.Tensor, "*row"]]) -> Int[torch.Tensor, "*row"]:
        """The class of the output, 0 to classes - 1, from what `run_batch` or `run_interchange_batch` returned."""
        return self._places(self.output, values[self.output].cpu())

    def all_inputs(self) -> Inputs:
        """Every combination of values of the inputs; the last input varies fastest, as in `itertools.product`.

        Raises CourseError if there are more than a million.
        """
        number = math.prod(len(self.values[v]) for v in self.inputs)
        if number > MOST:
            raise CourseError(f"{self.name} has {number:,} different inputs, more than {MOST:,}: name the rows you "
                              "want, or give the inputs fewer values")
        return torch.cartesian_prod(*(torch.tensor(self.values[v]) for v in self.inputs)).reshape(number, -1)

    # ------------------------------------------------------------ checks

    def require(self, variable: str, opening: str) -> None:
        """Raise CourseError, with the nearest name, for an unknown variable; `opening` says who names it."""
        require_known(variable, self.values, f"{opening} {variable!r}, which is no variable of {self.name}")

    def _checked_parents(self, variable: str) -> tuple[str, ...]:
        parents = tuple(self.parents.get(variable, ()))
        for parent in parents:
            if parent not in self.values:
                raise CourseError(f"{variable!r} has the parent {parent!r}, which is missing in {self.name}: there are "
                                  f"{', '.join(self.values)}")
        if len(set(parents)) < len(parents):
            raise CourseError(f"{variable!r} has the parent {max(parents, key=parents.count)!r} twice: name each "
                              "parent once")
        if parents and variable not in self.functions:
            raise CourseError(f"{variable!r} has parents but no function: say in `functions` how it is computed")
        if variable in self.functions and not parents:
            raise CourseError(f"{variable!r} has a function but no parents: an input has neither, all others have both")
        return parents

    def _checked_output(self) -> str:
        if self.output is not None:
            self.require(self.output, "the output is said to be")
            return self.output
        used = {parent for parents in self.parents.values() for parent in parents}
        last = [v for v in self.variables if self.parents[v] and v not in used]
        if not last:
            raise CourseError(f"in {self.name} nothing is computed: give at least one variable parents and a function")
        if len(last) > 1:
            raise CourseError(f"{', '.join(last)} have no children: say which one is the output, output={last[-1]!r}")
        return last[0]

    def _tabulate(self, variable: str) -> Int[torch.Tensor, "*parent"]:
        """The place of the function's value among the variable's values, for every combination of parents' places."""
        parents = self.parents[variable]
        shape = [len(self.values[p]) for p in parents]
        if math.prod(shape) > MOST:
            raise CourseError(f"the parents of {variable!r} have {math.prod(shape):,} combinations of values, more "
                              f"than {MOST:,}: give them fewer values, or compute {variable!r} in two steps")
        place = {value: i for i, value in enumerate(self.values[variable])}
        flat = []
        for row in itertools.product(*(self.values[p] for p in parents)):
            where = ", ".join(f"{p} = {x}" for p, x in zip(parents, row))
            try:
                value = self.functions[variable](*row)
                known = value in place
            except Exception as error:
                raise CourseError(f"the function of {variable!r} fails for {where} ({type(error).__name__}: "
                                  f"{str(error).splitlines()[0] if str(error) else 'no reason given'}): it must take "
                                  f"{len(parents)} values and return one") from None
            if not known:
                raise CourseError(f"the function of {variable!r} gives {value!r} for {where}, which is out of range: "
                                  f"{variable!r} may be {_span(self.values[variable])}")
            flat.append(place[value])
        return torch.tensor(flat).reshape(shape)

    def _places(self, variable: str, values: Int[torch.Tensor, "*row"]) -> Int[torch.Tensor, "*row"]:
        """Where each value stands among the values of the variable."""
        known = torch.tensor(self.values[variable])
        ordered, order = known.sort()
        found = torch.searchsorted(ordered, values.contiguous()).clamp(max=len(known) - 1)
        wrong = ordered[found] != values
        if wrong.any():
            raise CourseError(f"{variable!r} cannot be {values[wrong].flatten()[0].item()}: its values are "
                              f"{_span(self.values[variable])}")
        return order[found]

    def _checked_rows(self, inputs: Inputs, what: str) -> Inputs:
        inputs = torch.as_tensor(inputs).cpu()
        if inputs.ndim != 2 or inputs.shape[1] != len(self.inputs):
            raise CourseError(f"{what} has the shape {list(inputs.shape)}: {self.name} takes [row, "
                              f"{len(self.inputs)}], the columns are {', '.join(self.inputs)}")
        if inputs.is_floating_point():
            raise CourseError(f"{what} holds fractional numbers ({inputs.dtype}): variables take whole numbers")
        return inputs.long()


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    if len(values) > 2 and sorted(values) == list(range(low, high + 1)):
        return f"{low} to {high}"
    return " or ".join(map(str, values)) if len(values) < 8 else f"one of {len(values)} values from {low} to {high}"


def _integer(variable: str, value) -> int:
    if not isinstance(value, (bool, int)) and not (hasattr(value, "item") and isinstance(value.item(), (bool, int))):
        raise CourseError(f"{variable!r} cannot be {value!r}: variables take whole numbers")
    return int(value)


def _require_values(variable: str, values: Sequence[int]) -> None:
    values = tuple(values)
    if not values or len(set(values)) < len(values):
        what = "a value twice" if values else "no values"
        raise CourseError(f"{variable!r} has {what}: list each value it may take once")
    for value in values:
        _integer(variable, value)


def validate_outputs(model: CausalModel, number: int) -> None:
    """Raise CourseError unless a network with `number` outputs can answer for the causal model."""
    if number != model.classes:
        raise CourseError(f"the network has {number} outputs, but {model.output!r} of {model.name} takes "
                          f"{model.classes} values: use a network with {model.classes} outputs or another causal model")

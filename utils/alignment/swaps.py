"""Interchange interventions as rows of numbers: which frozen input is base, which are sources, what must come out."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import torch
from jaxtyping import Int

from ..engine import Frozen
from ..errors import CourseError
from ..tasks import Counterfactuals, Inputs, require_rows, validate_outputs

Index = Int[torch.Tensor, "row"]


@dataclass(frozen=True, eq=False)
class Swaps:
    """Interchanges between inputs of a frozen model, which are named by their number.

    base: [row]; sources: {variable: [row]}; labels: [row], the class after the interchange; base_labels: [row], without
    it. Raises CourseError if there are no rows or if they differ in number.
    """
    base: Index
    sources: Mapping[str, Index]
    labels: Index
    base_labels: Index

    def __post_init__(self):
        require_rows(self.base, self.sources, self.labels, self.base_labels)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, rows) -> Swaps:
        """Some of the rows: a slice, a mask or a tensor of row numbers."""
        return Swaps(self.base[rows], {v: s[rows] for v, s in self.sources.items()}, self.labels[rows],
                     self.base_labels[rows])

    def values(self, frozen: Frozen) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The activations of base and sources, each [row, position, width]."""
        return frozen.values[self.base], {v: frozen.values[s] for v, s in self.sources.items()}

    def to(self, device: torch.device | str) -> Swaps:
        return Swaps(self.base.to(device), {v: s.to(device) for v, s in self.sources.items()}, self.labels.to(device),
                     self.base_labels.to(device))

    def shuffled(self, seed: int) -> Swaps:
        return self[torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).to(self.base.device)]


def together(*parts: Swaps) -> Swaps:
    """All rows of several sets. A variable that a set does not swap takes the base as its source: nothing happens."""
    names = dict.fromkeys(v for part in parts for v in part.sources)
    sources = {v: torch.cat([part.sources.get(v, part.base) for part in parts]) for v in names}

    def one(name):
        return torch.cat([getattr(part, name) for part in parts])

    return Swaps(one("base"), sources, one("labels"), one("base_labels"))


# ---------------------------------------------------------------- from counterfactuals to rows of a frozen model

def _keys(inputs: Inputs, low: Int[torch.Tensor, "input"],
          span: Int[torch.Tensor, "input"]) -> Int[torch.Tensor, "row"]:
    """One number for each row, different for different rows within `span` of `low`."""
    steps = torch.cat([span.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.long)])
    return ((inputs - low) * steps).sum(1)


def locate(frozen: Frozen, inputs: Inputs, data: Counterfactuals) -> Swaps:
    """Counterfactual data as rows of a frozen model. inputs: [input, variable], what the model was frozen on, in order.

    Raises CourseError if these are not as many as the frozen inputs, if the data names an input that is not among them,
    and as `require_fitting` does; also if network and causal model have different numbers of outputs.
    """
    if len(inputs) != len(frozen):
        raise CourseError(f"there are {len(inputs)} inputs, but the model was frozen on {len(frozen)}: give the same, "
                          "in the same order")
    validate_outputs(data.model, outputs_of(frozen))
    everything = torch.cat([inputs, data.base, *data.sources.values()])
    low, span = everything.amin(0), everything.amax(0) - everything.amin(0) + 1
    known, order = _keys(inputs, low, span).sort()

    def find(rows: Inputs) -> Index:
        keys = _keys(rows, low, span)
        places = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
        missing = known[places] != keys
        if missing.any():
            raise CourseError(f"the counterfactuals use the input {tuple(rows[missing][0].tolist())}, on which the "
                              "model was not frozen: freeze it on all inputs that are used")
        return order[places]

    swaps = Swaps(find(data.base), {v: find(s) for v, s in data.sources.items()}, data.labels, data.base_labels)
    require_fitting(frozen, swaps)
    return swaps


@torch.no_grad()
def outputs_of(frozen: Frozen) -> int:
    """The number of classes (or words) that the frozen model has a logit for."""
    one = torch.zeros(1, dtype=torch.long, device=frozen.values.device)
    return frozen.logits(one, frozen.values[one]).shape[-1]


def require_fitting(frozen: Frozen, swaps: Swaps) -> None:
    """Raise CourseError for inputs or labels that the frozen model does not have, and for prompts of different length.

    Several positions that are swapped together must be there in both prompts; `Each` finds a single one in each.
    """
    for what, index in {"base": swaps.base, **{f"source of {v!r}": s for v, s in swaps.sources.items()}}.items():
        if index.min() < 0 or index.max() >= len(frozen):
            wrong = index.min() if index.min() < 0 else index.max()
            raise CourseError(f"a {what} is the input {wrong}, but the frozen inputs are 0 to {len(frozen) - 1}")
    classes = outputs_of(frozen)
    if swaps.labels.min() < 0 or swaps.labels.max() >= classes:
        raise CourseError(f"there are labels from {swaps.labels.min()} to {swaps.labels.max()}, but the network has "
                          f"classes 0 to {classes - 1}")
    prompts = getattr(frozen, "prompts", None)
    if prompts is None or frozen.values.shape[1] == 1:
        return
    for variable, source in swaps.sources.items():
        lengths = torch.stack([prompts.ends[swaps.base], prompts.ends[source]], 1).cpu() + 1
        other = (lengths[:, 0] != lengths[:, 1]).nonzero().flatten()
        if len(other):
            row = other[0]
            raise CourseError(f"base {int(swaps.base[row])} has {lengths[row, 0]} tokens and its source of "
                              f"{variable!r}, {int(source[row])}, has {lengths[row, 1]}: to swap position by position "
                              "they must have the same length (or choose one position in each prompt, with Each)")

"""An intervention as a value: `Do` says what is written, and where; `write` carries it out, and `pick` reads a site."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int

from ..errors import CourseError
from .sites import Site, columns_of, positions_of


@dataclass(frozen=True)
class Do:
    """Write `value` at `site`.

    value: a number; a tensor that broadcasts to the chosen slice [prompt, position, width] (its first axis is the
    prompt if it has three axes, or two with a single position); or a function from the current slice to the new one.
    """
    site: Site
    value: float | torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


def validate_value(do: Do, prompts: int) -> None:
    """Raise CourseError if the first axis of a value cannot be the prompts."""
    if isinstance(do.value, torch.Tensor) and do.value.dim() > 2 - do.site.single:
        if do.value.dim() > 3 or len(do.value) not in (1, prompts):
            raise CourseError(f"the value for {do.site.kind!r} has shape {tuple(do.value.shape)}: its first axis must "
                              f"be the {prompts} prompts, or 1")


@dataclass(frozen=True)
class Frame:
    """Which positions of the padded prompts the second axis of an activation holds.

    All from `first` to `width` - 1, or (`only`, [row]) a single one for each row.
    """
    width: int
    first: int = 0
    only: Int[torch.Tensor, "row"] | None = None

    def find(self, positions: Int[torch.Tensor, "entry chosen"],
             rows: Int[torch.Tensor, "entry"]) -> tuple[Int[torch.Tensor, "entry chosen"], Bool[torch.Tensor, "entry chosen"]]:
        """Where each of these positions stands in the activation, and whether it is there at all."""
        if self.only is None:
            return positions - self.first, positions >= self.first
        return torch.zeros_like(positions), positions == self.only[rows, None]


def write(tensor: Float[torch.Tensor, "row position width"], model, do: Do, rows: Int[torch.Tensor, "entry"],
          prompts: Int[torch.Tensor, "entry"], frame: Frame) -> None:
    """Carry out one intervention on `rows` of an activation, in place; `prompts` says which prompt each of them is.

    Raises CourseError for a value of another shape, or a function that returns None.
    """
    positions = positions_of(do.site, frame.width, prompts) % frame.width
    slots, present = frame.find(positions, rows)
    columns = columns_of(model, do.site, tensor.shape[-1])
    value, kind = do.value, do.site.kind
    chosen = tensor[0, 0, columns].shape[-1]
    if callable(value):
        value = value(tensor[rows[:, None], slots][..., columns])
        if value is None:
            raise CourseError(f"the function written at {kind!r} returned None: is `return` missing?")
    elif isinstance(value, torch.Tensor) and value.dim() >= 2:
        value = value if value.dim() == 3 else value[:, None] if do.site.single else value[None]
        value = value if len(value) == 1 else value[prompts]
    value = _fitting(do, (*slots.shape, chosen), tensor, value)
    entry, which = present.nonzero(as_tuple=True)
    where = rows[entry], slots[entry, which]
    if isinstance(columns, list):
        row, slot = (index[:, None] for index in where)
        tensor[row, slot, torch.tensor(columns, device=tensor.device)] = value[entry, which]
    else:
        tensor[..., columns][where] = value[entry, which]


def is_flat(do: Do) -> bool:
    """True if the same is written at all positions and for all prompts."""
    flat = not callable(do.value) and (not isinstance(do.value, torch.Tensor) or do.value.dim() < 2)
    return flat and do.site.position is None


def write_flat(tensor: Float[torch.Tensor, "row position width"], model,
               entries: Sequence[tuple[Do, Int[torch.Tensor, "entry"]]]) -> None:
    """Carry out, in one step and in place, flat interventions, each on rows of its own. Raises as `write` does."""
    chosen = torch.zeros(len(tensor), tensor.shape[-1], dtype=torch.bool, device=tensor.device)
    values = tensor.new_zeros(chosen.shape)
    for do, rows in entries:
        columns = columns_of(model, do.site, tensor.shape[-1])
        columns = torch.arange(tensor.shape[-1])[columns] if isinstance(columns, slice) else torch.tensor(columns)
        where = rows[:, None], columns.to(tensor.device)
        values[where] = _fitting(do, (len(rows), 1, len(columns)), tensor)[:, 0]
        chosen[where] = True
    tensor.copy_(torch.where(chosen[:, None], values[:, None], tensor))


def _fitting(do: Do, shape: tuple[int, int, int], tensor: torch.Tensor, value=None) -> torch.Tensor:
    value = torch.as_tensor(do.value if value is None else value, dtype=tensor.dtype, device=tensor.device)
    try:
        return value.expand(shape)
    except RuntimeError:
        raise CourseError(f"a value of shape {tuple(value.shape)} does not fit {do.site.kind!r}, which is {shape} here "
                          "(prompt, position, width)") from None


def pick(tensor: Float[torch.Tensor, "prompt position width"], model, site: Site) -> torch.Tensor:
    """A copy of what a site names in an activation of all prompts and positions; a single position drops that axis."""
    prompts = torch.arange(len(tensor), device=tensor.device)
    where = prompts[:, None], positions_of(site, tensor.shape[1], prompts)
    chosen = tensor[where][..., columns_of(model, site, tensor.shape[-1])].clone()
    return chosen[:, 0] if site.single else chosen

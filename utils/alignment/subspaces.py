"""Subspaces of an activation, and the swap inside them.

The activation is taken at one position or at several jointly: `wide` = positions x width numbers. A subspace is a few
orthonormal columns [wide, rank]; the other directions of the rotation are never needed, because they stay as they are.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

import torch
from jaxtyping import Float

from ..errors import CourseError, require_known

Values = Float[torch.Tensor, "row position width"]
TOLERANCE = 1e-5        # of the product of the columns with themselves against the identity


@dataclass(frozen=True, eq=False, repr=False)
class Subspace:
    """One group of orthonormal columns for each variable; the groups are orthogonal to one another too.

    columns: [positions x width, rank], the groups side by side in the order of `ranks`; shape: (positions, width).
    """
    columns: Float[torch.Tensor, "wide rank"]
    ranks: dict[str, int]
    shape: tuple[int, int]

    def of(self, variable: str) -> Float[torch.Tensor, "wide rank"]:
        """The columns of one variable. Raises CourseError for one that has none."""
        require_known(variable, self.ranks, f"no part of this subspace belongs to {variable!r}")
        names = list(self.ranks)
        return self.columns.split(list(self.ranks.values()), 1)[names.index(variable)]

    def part(self, *variables: str) -> Subspace:
        """The subspace of these variables alone."""
        columns = torch.cat([self.of(v) for v in variables], 1)
        return Subspace(columns, {v: self.ranks[v] for v in variables}, self.shape)

    def swap(self, base: Values, sources: Mapping[str, Values]) -> Values:
        """base + (source - base) R R^T for each variable with its own source and columns R; the rest stays.

        Gradients flow to the columns. Raises CourseError for an unknown variable, or activations of another shape.
        """
        for name, value in {"the base": base, **{f"the source of {v!r}": s for v, s in sources.items()}}.items():
            if tuple(value.shape[1:]) != tuple(self.shape) or len(value) != len(base):
                raise CourseError(f"{name} has the shape {list(value.shape)}: base and sources must agree and hold "
                                  f"[row, {self.shape[0]}, {self.shape[1]}] for this subspace")
        new = base
        for variable, source in sources.items():
            columns = self.of(variable)
            if columns.shape[1] == len(columns):    # everything: R R^T is the identity
                new = source
            else:
                new = new + (((source - base).flatten(1) @ columns) @ columns.T).view_as(base)
        return new

    def to(self, device: torch.device | str) -> Subspace:
        return Subspace(self.columns.to(device), self.ranks, self.shape)

    @property
    def error(self) -> float:
        """How far the columns are from orthonormal: the largest entry of R^T R - 1."""
        return float((self.columns.T @ self.columns - torch.eye(self.columns.shape[1]).to(self.columns)).abs().max())

    def __repr__(self) -> str:
        ranks = ", ".join(f"{v}: {rank}" for v, rank in self.ranks.items())
        return f"Subspace({ranks}; of {self.shape[0]} x {self.shape[1]})"

    # ------------------------------------------------------------ files

    def save(self, path: str | Path, **about: str) -> None:
        """Write a safetensors file; `about` is kept beside the columns. `load_subspace` reads it."""
        from safetensors.torch import save_file

        about = {"ranks": json.dumps(self.ranks), "shape": json.dumps(self.shape), **about}
        save_file({"columns": self.columns.detach().cpu().contiguous()}, path, metadata=about)


def load_subspace(path: str | Path) -> Subspace:
    """Raises CourseError for a file that is missing, damaged or holds no orthonormal columns."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about, columns = file.metadata(), file.get_tensor("columns")
        found = Subspace(columns, json.loads(about["ranks"]), tuple(json.loads(about["shape"])))
        if found.error > TOLERANCE or sum(found.ranks.values()) != columns.shape[1]:
            raise ValueError("its columns are not orthonormal or not as many as it says")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CourseError(f"{Path(path).name!r} holds no subspace that can be read ({str(error).splitlines()[0]}): "
                          "fit it again") from None
    return found


# ---------------------------------------------------------------- making them

def orthonormal(weights: Float[torch.Tensor, "wide rank"]) -> Float[torch.Tensor, "wide rank"]:
    """Orthonormal columns that span the same, by thin QR; gradients flow. The first n span what the first n did."""
    return torch.linalg.qr(weights).Q


def random_weights(shape: tuple[int, int], ranks: Mapping[str, int], seed: int) -> Float[torch.Tensor, "wide rank"]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape[0] * shape[1], sum(ranks.values()), generator=generator)


def random_subspace(shape: tuple[int, int], ranks: Mapping[str, int], seed: int = 0) -> Subspace:
    """Columns in random directions, all directions equally likely. Raises CourseError for ranks that do not fit."""
    require_ranks(shape, ranks)
    return Subspace(orthonormal(random_weights(shape, ranks, seed)), dict(ranks), tuple(shape))


def everything(shape: tuple[int, int], variable: str) -> Subspace:
    """The whole activation: to swap it is a full patch."""
    wide = shape[0] * shape[1]
    return Subspace(torch.eye(wide), {variable: wide}, tuple(shape))


def require_ranks(shape: tuple[int, int], ranks: Mapping[str, int]) -> None:
    """Raise CourseError for a rank below 1, or more columns than the activation has numbers."""
    wide = shape[0] * shape[1]
    for variable, rank in ranks.items():
        if rank != int(rank) or rank < 1:
            raise CourseError(f"a subspace of rank {rank} for {variable!r} swaps nothing: choose a whole number from 1 "
                              f"to {wide}")
    if not ranks or sum(ranks.values()) > wide:
        what = f"{sum(ranks.values())} is larger than" if ranks else "of no variable does not fit"
        raise CourseError(f"the rank {what} the width of the activation, {shape[0]} positions x {shape[1]} = {wide}: "
                          f"choose ranks that add up to {wide} or less")

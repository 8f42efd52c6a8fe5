"""Inputs and a subspace for one step, drawn at random. Needs torch alone, so that every environment can draw the same."""
from __future__ import annotations

from dataclasses import dataclass

import torch

POSITIONS, CLASSES, TOKENS = 6, 28, 300


@dataclass(frozen=True)
class Draw:
    """base, source: token ids, [row, position]; labels: [row]; columns: orthonormal, [positions x width, rank]."""
    base: torch.Tensor
    source: torch.Tensor
    labels: torch.Tensor
    columns: torch.Tensor


def draw(rows: int, width: int, rank: int) -> Draw:
    generator = torch.Generator().manual_seed(0)
    base, source = (torch.randint(TOKENS, (rows, POSITIONS), generator=generator) for _ in range(2))
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    return Draw(base, source, labels, orthonormal(POSITIONS * width, rank))


def orthonormal(wide: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(wide, rank, generator=generator)).Q

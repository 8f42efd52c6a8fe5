"""Random masks and random orders of groups, drawn by one of three strategies.

"uniform": every draw by itself. "stratified": sizes in their exact shares instead of by chance. "antithetic": every
draw comes with its opposite, so that errors of opposite sign cancel (Covert & Lee 2021, arXiv 2012.01536, for masks;
Mitchell et al. 2022, arXiv 2104.12199, for orders). Draws come in blocks that are independent of one another.
"""
from __future__ import annotations

import torch
from jaxtyping import Bool, Int

from ..errors import CourseError

STRATEGIES = ("uniform", "stratified", "antithetic")


def random_masks(groups: int, number: int, *, size: int | None = None,
                 seed: int = 0) -> Bool[torch.Tensor, "mask group"]:
    """Random masks that keep `size` groups; None: each group with probability 1/2, independently of the others."""
    draws = torch.rand(number, groups, generator=torch.Generator().manual_seed(seed))
    return draws < 0.5 if size is None else draws.argsort(1).argsort(1) < size


def kernel_masks(groups: int, number: int, *, strategy: str = "uniform",
                 seed: int = 0) -> Bool[torch.Tensor, "mask group"]:
    """Random masks that keep s groups, 0 < s < n, with probability proportional to 1 / (s (n - s)): KernelSHAP.

    "stratified" has each size as often as is expected; "antithetic" lets the complement follow every mask.
    Raises CourseError for an unknown strategy, a single group, or an odd number of antithetic masks.
    """
    block = block_of_masks(strategy)
    if groups < 2:
        raise CourseError("masks of a single group keep it or drop it, nothing is left to draw: make at least two")
    if number % block:
        raise CourseError(f"antithetic masks come in pairs, so their number must be even, not {number}")
    generator, sizes = torch.Generator().manual_seed(seed), torch.arange(1, groups)
    chance, drawn = 1 / (sizes * (groups - sizes)).double(), number // block
    if strategy == "stratified":
        shares = (torch.arange(drawn) + 0.5) / drawn
        size = sizes[torch.searchsorted(chance.cumsum(0) / chance.sum(), shares.double()).clamp(max=groups - 2)]
    else:
        size = sizes[torch.multinomial(chance, drawn, replacement=True, generator=generator)]
    kept = torch.rand(drawn, groups, generator=generator).argsort(1).argsort(1) < size[:, None]
    return torch.stack([kept, ~kept], 1).flatten(0, 1) if block == 2 else kept


def random_orders(groups: int, number: int, *, strategy: str = "uniform",
                  seed: int = 0) -> Int[torch.Tensor, "order group"]:
    """The place of each group in random orders in which groups join.

    In a block of "stratified" orders each group has each place once; "antithetic" lets the reverse follow every order.
    Raises CourseError for an unknown strategy, part of a block, or fewer than two blocks.
    """
    block = block_of_orders(groups, strategy)
    if number < 2 * block:
        raise CourseError(f"at least {2 * block} {strategy} orders are needed to see how far they disagree, not "
                          f"{number}")
    if number % block:
        raise CourseError(f"{strategy} orders of {groups} groups come in blocks of {block}: choose a multiple of that, "
                          f"not {number}")
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.stack([torch.randperm(groups, generator=generator) for _ in range(number // block)])

    drawn = draw()
    if strategy == "antithetic":
        return torch.stack([drawn, groups - 1 - drawn], 1).flatten(0, 1)
    if strategy == "stratified":  # a Latin square, its places renamed so that neighbours do not stay neighbours
        square = (drawn[:, None] + torch.arange(groups)[:, None]) % groups
        return draw()[:, None].expand_as(square).gather(2, square).flatten(0, 1)
    return drawn


def block_of_orders(groups: int, strategy: str) -> int:
    """How many orders of a strategy belong together."""
    return _block(strategy, 1, groups, 2)


def block_of_masks(strategy: str) -> int:
    """How many of the masks of `kernel_masks` belong together."""
    return _block(strategy, 1, 1, 2)


def _block(strategy: str, *sizes: int) -> int:
    if strategy not in STRATEGIES:
        raise CourseError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    return sizes[STRATEGIES.index(strategy)]

"""Heads that are shared: in grouped-query attention several query heads read the same keys and values."""
from __future__ import annotations

import torch

from ..errors import CourseError


def for_each_query_head(values: torch.Tensor, heads: int, axis: int) -> torch.Tensor:
    """`values` with one entry for each of `heads` query heads along `axis`: what a group shares is repeated.

    Neighbouring query heads share, as in the models themselves. Raises CourseError if they cannot be shared out evenly.
    """
    shared = values.shape[axis]
    if not shared or heads % shared:
        raise CourseError(f"{heads} query heads cannot share {shared} key and value heads evenly: choose the axis of the "
                          "heads")
    return values.repeat_interleave(heads // shared, axis)

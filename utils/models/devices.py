"""Where a model is put."""
from __future__ import annotations

import torch

from ..errors import CourseError


def device_called(name: str | torch.device | None) -> torch.device:
    """The device of this name; None: the GPU if there is one, else the CPU. Raises CourseError if it is not here."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError):  # torch says "not compiled with CUDA" by an assertion
        found = None
    if found is None or found.type == "meta":
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise CourseError(f"there is no device {str(name)!r} here that could hold a model: choose {' or '.join(here)}, "
                          "or leave it out")
    return found

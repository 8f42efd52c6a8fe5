"""What must hold before a number is trusted: of the model, and of the prompts. Each fault is refused in one sentence."""
from __future__ import annotations

from typing import Iterable

import torch
from torch import nn

from ..errors import CourseError
from ..models import Prompts, context_of, is_bridge
from .sites import Site, as_tuple

QUANTISERS = ("torch.ao.", "torchao.", "bitsandbytes.")


def require_usable(modules: Iterable[nn.Module]) -> None:
    """Raise CourseError if these are modules of a model that is compiled, in training mode, quantised, on no device or on several."""
    devices: dict[torch.device, None] = {}
    for module in modules:
        if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
            raise CourseError("this model was compiled (torch.compile), and then nothing can be read or written inside "
                              "it: give the model as it was before")
        if type(module).__module__.startswith(QUANTISERS):
            raise CourseError(f"this model is quantised ({type(module).__name__}), and what is read and written here "
                              "must be exact: load the model that it was made from")
        if module.training:
            raise CourseError("this model is in training mode, where dropout makes every run another: call "
                              "model.eval() first")
        devices |= {parameter.device: None for parameter in module._parameters.values() if parameter is not None}
    if any(device.type == "meta" for device in devices):
        raise CourseError("this model has weights on the device 'meta', where there are no numbers: load it in full on "
                          "one device")
    if len(devices) > 1:
        raise CourseError(f"this model is split over {' and '.join(map(str, devices))}: load it on one device, "
                          "without device_map")


def require_sound(model, prompts: Prompts) -> None:
    """Raise CourseError for prompts with other token ids than the model has, too long, or not padded on the right."""
    tokens, mask, ends = prompts.tokens, prompts.mask, prompts.ends
    if not tokens.numel():
        raise CourseError("there is nothing to run: the prompts hold no token")
    if tokens.dim() != 2 or mask.shape != tokens.shape or ends.shape != tokens.shape[:1]:
        shapes = ", ".join(f"{name} {tuple(getattr(prompts, name).shape)}" for name in ("tokens", "mask", "ends"))
        raise CourseError(f"these are no prompts ({shapes}): tokens and mask must be [prompt, position], ends [prompt]")
    width, limit = tokens.shape[1], context_of(model)
    if limit is not None and width > limit:
        raise CourseError(f"a prompt has {width} tokens, but the context of this model ends at {limit}")
    vocabulary, low, high = _vocabulary(model), int(tokens.min()), int(tokens.max())
    if not 0 <= low <= high < vocabulary:
        raise CourseError(f"token id {low if low < 0 else high} is out of range: this model has ids 0 to {vocabulary - 1}")
    real = mask.sum(1)
    if not (mask == (torch.arange(width, device=mask.device) < real[:, None])).all() or not (real > 0).all():
        raise CourseError("these prompts are not padded on the right: each row of the mask must be 1 for its tokens and "
                          "then 0, as encode and padded make it")
    if not ((ends >= 0) & (ends < real)).all():
        raise CourseError("a prompt is said to end at padding: `ends` must be positions at which the mask is 1")


def require_same_end(sites: Iterable[Site], prompts: Prompts) -> None:
    """Raise CourseError for positions counted from the end where prompts end at different ones: most would be padding."""
    if prompts.equal_length:
        return
    for site in sites:
        first = min(as_tuple(site.position), default=0)
        if first < 0:
            raise CourseError(f"position {first} counts from the end, but these prompts end at different positions: say "
                              "where in each, with Each.of(prompts.ends)")


def _vocabulary(model) -> float:
    """The number of tokens that the model embeds; infinite for one that does not say."""
    plain = model.original_model if is_bridge(model) else model
    return plain.get_input_embeddings().weight.shape[0] if hasattr(plain, "get_input_embeddings") else float("inf")

"""What a `TransformerBridge` and a Hugging Face model as it is are both asked: which of them it is, and its size."""
from __future__ import annotations

from torch import nn


def is_bridge(model) -> bool:
    return hasattr(type(model), "hook_dict")  # asked of the type: a bridge builds the dictionary anew each time


def inner(module):
    """The Hugging Face module inside a component of a bridge."""
    return getattr(module, "original_component", module)


def shape_of(model) -> tuple[int, int]:
    """(number of layers, number of heads)."""
    if is_bridge(model):
        return model.cfg.n_layers, model.cfg.n_heads
    return model.config.num_hidden_layers, model.config.num_attention_heads


def context_of(model) -> int | None:
    """The longest prompt the model can take, in tokens; None if it says nothing about that."""
    config = model.cfg if is_bridge(model) else model.config
    return next((getattr(config, name) for name in ("n_ctx", "max_position_embeddings") if getattr(config, name, None)), None)


def modules_of(model) -> list:
    """All modules, each once. `model.modules()` walks by recursion, which takes longer than a pass of a short prompt."""
    seen, waiting = {}, [model if isinstance(model, nn.Module) else model.model]  # the model inside a ConfiguredModel
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in seen:
            seen[id(module)] = module
            waiting.extend(module._modules.values())
    return list(seen.values())

"""Derived from the exercise cells of solutions/00_start_here.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def count_tokens(model, text: str) -> int:
    """Number of tokens of `text`, BOS not counted."""
    return len(model.tokenizer.tokenize(text))


def next_token_probability(logits: Float[Tensor, "prompt position vocab"], token: int) -> Float[Tensor, "prompt"]:
    """Probability of `token` after the last position of each prompt."""
    return logits[:, -1].softmax(-1)[:, token]


def read_output(module: torch.nn.Module, forward) -> Tensor:
    """A copy of what `module` returned during `forward()`; no hook is left behind, whatever happens."""
    kept = []
    handle = module.register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))
    try:
        forward()
    finally:
        handle.remove()
    return kept[0]


def without_mlp(model, tokens: Int[Tensor, "prompt position"], layer: int) -> Float[Tensor, "prompt position vocab"]:
    """Logits when the MLP of `layer` adds nothing to the residual stream, at any position."""
    def silence(value, hook):
        return torch.zeros_like(value)

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_mlp_out", silence)])


def logits_at_end(logits: Float[Tensor, "prompt position vocab"], ends: Int[Tensor, "prompt"]) -> Float[Tensor, "prompt vocab"]:
    """The row of logits at the last real position of each prompt."""
    return logits[torch.arange(len(ends), device=logits.device), ends]

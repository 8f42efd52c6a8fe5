"""Derived from the exercise cells of solutions/03_activation_patching_ioi.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def logit_difference(logits: Float[Tensor, "prompt vocab"], correct: Int[Tensor, "prompt"],
                     wrong: Int[Tensor, "prompt"]) -> Float[Tensor, "prompt"]:
    """Logit of the correct token minus logit of the wrong one, for each prompt."""
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, correct] - logits[rows, wrong]


def patch_residual(model, tokens: Int[Tensor, "prompt position"], clean_cache, layer: int,
                   position: int) -> Float[Tensor, "prompt position vocab"]:
    """Logits of `tokens` when one vector of the stream entering `layer` is the clean one."""
    name = f"blocks.{layer}.hook_resid_pre"

    def write_clean(resid, hook):
        resid = resid.clone()
        resid[:, position] = clean_cache[name][:, position]
        return resid

    return model.run_with_hooks(tokens, fwd_hooks=[(name, write_clean)])


def recovery(patched: Float[Tensor, "*cell prompt"], corrupted: Float[Tensor, "prompt"],
             clean: Float[Tensor, "prompt"]) -> Float[Tensor, "*cell"]:
    """Share of the total effect that each patch brings back: 0 = as corrupted, 1 = as clean."""
    return (patched - corrupted).mean(-1) / (clean - corrupted).mean(-1)


def sweep_layer(model, tokens: Int[Tensor, "prompt position"], clean_cache, corrupted_cache, layer: int,
                correct: Int[Tensor, "prompt"], wrong: Int[Tensor, "prompt"]) -> Float[Tensor, "position prompt"]:
    """Logit differences when the stream entering `layer` is made clean at one position after the other."""
    found = []
    for position in range(tokens.shape[1]):
        logits = patch_residual(model, tokens, clean_cache, layer, position)
        found.append(logit_difference(logits[:, -1], correct, wrong))
    return torch.stack(found)


def backup(a: float, b: float) -> float:
    """An outcome for which each cell is sufficient and neither is necessary; a and b are 0 or 1."""
    return max(a, b)


def patch_head(model, tokens: Int[Tensor, "prompt position"], clean_cache, layer: int,
               head: int) -> Float[Tensor, "prompt position vocab"]:
    """Logits of `tokens` when one head gives its clean output at the last position."""
    name = f"blocks.{layer}.attn.hook_z"

    def write_clean(z, hook):
        z = z.clone()
        z[:, -1, head] = clean_cache[name][:, -1, head]
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(name, write_clean)])


def direct_path(model, clean_tokens: Int[Tensor, "prompt position"], clean_cache, corrupted_cache,
                sender: tuple[int, int]) -> Float[Tensor, "prompt position vocab"]:
    """Logits of the clean run when only the sender is corrupted and every other head is held at its clean output."""
    def held(layer):
        name = f"blocks.{layer}.attn.hook_z"

        def hold(z, hook):
            z = clean_cache[name].clone()
            if layer == sender[0]:
                z[:, :, sender[1]] = corrupted_cache[name][:, :, sender[1]]
            return z
        return name, hold

    return model.run_with_hooks(clean_tokens, fwd_hooks=[held(layer) for layer in range(model.cfg.n_layers)])

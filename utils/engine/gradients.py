"""How an outcome changes with an activation, to first order: the gradient, by hooks on the model's own pass."""
from __future__ import annotations

from typing import Sequence

import torch
from jaxtyping import Float

from ..errors import CourseError
from ..metrics import Outcome
from ..models import Prompts
from .hook_path import Hooks, judged_logits
from .interventions import check
from .sites import Site

Slopes = dict[Site, tuple[torch.Tensor, torch.Tensor]]


def gradients(model, prompts: Prompts, sites: Sequence[Site],
              outcome: Outcome) -> tuple[Float[torch.Tensor, "prompt"], Slopes]:
    """The outcome of each prompt; {site: (activation, gradient of the prompt's outcome)}, both [prompt, position, width].

    One pass forward and one back. Sites are whole activations; resid_mid is refused, as the stream passes beside the place
    where it can be caught. Raises CourseError for an outcome that has no gradient, such as a rank.
    """
    check(model, prompts, sites)
    if any(site.kind == "resid_mid" for site in sites):
        raise CourseError("'resid_mid' has no gradient here: take resid_pre, resid_post, attn_out or mlp_out")
    everyone, kept = torch.arange(len(prompts), device=prompts.tokens.device), {}
    with torch.enable_grad(), Hooks(*prompts.tokens.shape) as hooks:
        for site in sites:
            def keep(tensor, site=site):
                kept[site] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
                return kept[site]
            hooks.on(model, site, keep)
        values = outcome(judged_logits(model, prompts, everyone), everyone).float()
        hooks.require_called()
        if not values.requires_grad:
            raise CourseError(f"a {type(getattr(outcome, 'outcome', outcome)).__name__} has no gradient: choose an outcome "
                              "that moves with the logits, such as LogitDifference")
        slopes = torch.autograd.grad(values.sum(), [kept[site] for site in sites])
    return values.detach(), {site: (kept[site].detach(), slope) for site, slope in zip(sites, slopes)}

"""Derived from the exercise cells of solutions/06_grouped_masking.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from utils.engine import Do, Site, at_end


def mask_neurons(hidden: Float[Tensor, "prompt position neuron"], share: float,
                 seed: int) -> Float[Tensor, "prompt position neuron"]:
    """`hidden` with a random share of the neurons at zero, the same ones at every position of every prompt."""
    neurons = hidden.shape[-1]
    order = torch.randperm(neurons, generator=torch.Generator().manual_seed(seed))
    hidden = hidden.clone()
    hidden[..., order[:round(share * neurons)]] = 0
    return hidden


def keep_groups(hidden: Float[Tensor, "*batch neuron"], number: int,
                kept: list[int]) -> tuple[Float[Tensor, "*batch neuron"], int]:
    """(`hidden` with zero in all groups but those in `kept`, the number of neurons kept); groups 0 to number - 1."""
    neurons = hidden.shape[-1]
    ids = torch.arange(neurons) * number // neurons
    mask = torch.isin(ids, torch.tensor(kept, dtype=torch.long)).to(hidden.device)
    return hidden * mask, int(mask.sum())


def masked_losses(model, prompts, answers: Int[Tensor, "prompt"], layer: int, ids: Int[Tensor, "neuron"],
                  kept: Bool[Tensor, "mask group"]) -> Float[Tensor, "mask"]:
    """The mean loss under each mask over groups of neurons of one MLP."""
    losses = []
    for row in kept:
        dropped = (~row[ids]).nonzero().flatten().tolist()
        plan = [Do(Site("mlp_post", layer, units=dropped), 0.0)] if dropped else []
        losses.append(F.cross_entropy(at_end(model, prompts, plan), answers))
    return torch.stack(losses)


def difference_of_means(kept: Bool[Tensor, "mask group"], losses: Float[Tensor, "mask"]) -> Float[Tensor, "group"]:
    """How much lower the loss is, on average, in the masks that keep a group than in those that drop it."""
    return torch.stack([losses[~column].mean() - losses[column].mean() for column in kept.T])


def gains(outcome, order: list[int]) -> Float[Tensor, "group"]:
    """What each group adds to the outcome when the groups join one after the other."""
    found, joined, before = torch.zeros(len(order)), set(), outcome(set())
    for group in order:
        joined = joined | {group}
        after = outcome(joined)
        found[group], before = after - before, after
    return found


def attention_without(z: Float[Tensor, "position head d_head"], w_o: Float[Tensor, "head d_head width"],
                      b_o: Float[Tensor, "width"], dropped: list[int]) -> Float[Tensor, "position width"]:
    """The output of an attention layer in which some heads say nothing."""
    z = z.clone()
    z[:, dropped] = 0
    return torch.einsum("phd,hdw->pw", z, w_o) + b_o


def hide_keys(pattern: Float[Tensor, "query key"], keys: list[int]) -> Float[Tensor, "query key"]:
    """Attention weights of a head that must not look at `keys`; rows sum to 1, or to 0 if nothing is left."""
    pattern = pattern.clone()
    pattern[:, keys] = 0
    return pattern / pattern.sum(-1, keepdim=True).clamp(min=1e-9)


def interaction(outcome, everything: set[int], a: int, b: int) -> float:
    """The second difference of groups a and b while all others are kept; `outcome` takes the set of groups kept."""
    return outcome(everything) - outcome(everything - {b}) - outcome(everything - {a}) + outcome(everything - {a, b})

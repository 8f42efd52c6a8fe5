"""Derived from the exercise cells of solutions/07_masking_classifiers.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing import Callable


def mask_heads(model, inputs: dict[str, Tensor], layer: int, heads: list[int]) -> Float[Tensor, "prompt class"]:
    """Logits with the outputs of `heads` in one layer set to zero; no hook stays, whatever happens."""
    attention = model.bert.encoder.layer[layer].attention.self
    number = model.config.num_attention_heads
    def hook(module, args, output):
        vectors = output[0].unflatten(-1, (number, -1)).clone()              # [prompt, position, head, size of a head]
        vectors[:, :, heads] = 0
        return (vectors.flatten(-2), *output[1:])

    handle = attention.register_forward_hook(hook)
    try:
        return model(**inputs).logits
    finally:
        handle.remove()


def two_heads(kept: Bool[Tensor, "mask two"], kind: str) -> Float[Tensor, "mask"]:
    """The outcome, 0 or 1, of a model of two heads under each mask."""
    return (kept.any(1) if kind == "backup" else kept.all(1)).float()


def extra_for_negation(worth_negated: Float[Tensor, "head review"],
                       worth_plain: Float[Tensor, "head review"]) -> tuple[int, float]:
    """The head with the largest difference (negated minus plain), chosen on the first half of the reviews, and its
    difference on the second half."""
    half = worth_plain.shape[1] // 2
    head = int((worth_negated[:, :half].mean(1) - worth_plain[:, :half].mean(1)).argmax())
    return head, (worth_negated[head, half:].mean() - worth_plain[head, half:].mean()).item()


def keep_neurons(model, inputs: dict[str, Tensor], layer: int,
                 neurons: list[int]) -> Float[Tensor, "prompt position two"]:
    """Scores of each token as first and last of the answer, with all other neurons of one layer set to zero."""
    def hook(module, args):
        kept = torch.zeros_like(args[0])
        kept[..., neurons] = args[0][..., neurons]
        return (kept, *args[1:])

    handle = model.bert.encoder.layer[layer].output.dense.register_forward_pre_hook(hook)
    try:
        output = model(**inputs)
    finally:
        handle.remove()
    return torch.stack([output.start_logits, output.end_logits], -1)


def valid_span(start: Float[Tensor, "position"], end: Float[Tensor, "position"], context: Bool[Tensor, "position"],
               longest: int = 12) -> tuple[int, int]:
    """First and last token of the best span that lies in the context and does not end before it starts."""
    n = len(start)
    pairs = torch.ones(n, n, dtype=torch.bool, device=start.device)
    allowed = pairs.triu() & ~pairs.triu(longest) & context[:, None] & context[None, :]
    scores = (start[:, None] + end[None, :]).masked_fill(~allowed, -torch.inf)
    return divmod(int(scores.argmax()), n)


def marked_step(layer: torch.nn.Linear, mark: Bool[Tensor, "..."], optimiser: torch.optim.Optimizer,
                loss: Callable[[], Float[Tensor, ""]]) -> Tensor:
    """One step that changes the layer's weight only where `mark` is True. Returns the weight."""
    before = layer.weight.detach().clone()
    optimiser.zero_grad()
    loss().backward()
    layer.weight.grad *= mark
    optimiser.step()
    with torch.no_grad():
        layer.weight.copy_(torch.where(mark, layer.weight, before))
    return layer.weight


silent = [1, 2, 3, 4, 5, 6, 7]

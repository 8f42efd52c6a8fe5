"""Copies of a model whose weights may be changed, and models of the same shape that were never trained."""
from __future__ import annotations

import copy

import torch

from .bridges import inner, is_bridge


@torch.no_grad()
def plain_copy(model):
    """The Hugging Face model with weights of its own, in evaluation mode and with gradients; also of a bridge.

    A `TransformerBridge` holds some weights twice, so not it is copied: the model it was made of is built anew.
    """
    if not is_bridge(model):
        return copy.deepcopy(model).eval().requires_grad_(True)
    wrapped = model.original_model
    plain = type(wrapped)(copy.deepcopy(wrapped.config)).to(next(wrapped.parameters()).device)
    for name, parameter in plain.named_parameters():
        parameter.copy_(_inside(wrapped, name))
    return plain.eval().requires_grad_(True)


def _inside(wrapped, name: str) -> torch.Tensor:
    """The parameter that has this name in the model before it was wrapped."""
    found = wrapped
    for part in name.split("."):
        found = getattr(inner(found), part)
    return found


def untrained(model, seed: int = 0):
    """A model of the same class, shape and tokenizer, with the random weights its library starts training from.

    A bridge for a bridge; frozen, in evaluation mode. The control that says what the architecture does by itself.
    """
    original = model.original_model if is_bridge(model) else model
    device = next(original.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plain = type(original)(copy.deepcopy(original.config))
    return like(model, plain.to(device))


def like(model, plain):
    """`plain`, frozen and with the tokenizer of `model`; as a bridge if `model` is one."""
    plain.eval().requires_grad_(False)
    tokenizer = getattr(model, "tokenizer", None)
    if is_bridge(model):
        from transformer_lens.model_bridge import TransformerBridge  # takes a second: only when one is wanted

        plain = TransformerBridge.boot_transformers(model.cfg.model_name, hf_model=plain, tokenizer=tokenizer,
                                                    device=next(plain.parameters()).device, dtype=torch.float32)
        plain.eval().requires_grad_(False)
    elif tokenizer is not None:
        plain.tokenizer = tokenizer
    plain.known_words = getattr(model, "known_words", None)
    if hasattr(model, "prepends_bos"):
        plain.prepends_bos = model.prepends_bos
    return plain

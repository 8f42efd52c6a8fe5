"""Exercises of lesson 00: tokens, probabilities, the first hooks, the logits at the end of a padded batch."""
from __future__ import annotations

from functools import lru_cache
from typing import Callable

import torch
from jaxtyping import Float, Int

from ..engine import Do, Site, run
from ..models import CHECKPOINTS, load_model
from . import call, close, exercise, require, student_code, tensor_like


@lru_cache(maxsize=1)
def shipped():
    """The shipped model on the CPU; only its tokenizer and the exactness of its forward pass are used."""
    model = load_model("course-gpt2", device="cpu")
    model(torch.zeros(1, 1, dtype=torch.long))        # a first run lets the bridge put its own hooks on
    return model


# ---------------------------------------------------------------- tests

@exercise("0.1 count_tokens", difficulty=1, minutes=2)
def _(attempt):
    text = " John, Mary and Tom"                 # four words and a comma, each one token
    found = call(attempt, shipped(), text)
    require(isinstance(found, int), f"a {type(found).__name__} came back: the number of tokens is asked for, an int.")
    require(found != len(text), "you counted characters: one token can hold many of them.")
    require(found != len(text.split()), "you counted words: a comma is a token of its own.")
    require(found != 6, "one too many: is BOS, which stands in front of every prompt, counted too?")
    require(found == 5, f"{text!r} has 5 tokens, you found {found}.")
    require(call(attempt, shipped(), text * 2) == 10, "the text twice must have twice as many tokens.")


@exercise("0.2 next_token_probability", difficulty=1, minutes=2)
def _(attempt):
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = tensor_like(call(attempt, logits, 4), shape={"prompt": 3})
    odds = logits.double().exp()
    close(found, odds[:, -1, 4] / odds[:, -1].sum(-1), wrong={
        "that is the logit: a softmax turns logits into probabilities.": logits[:, -1, 4],
        "that is the logarithm of the probability: use softmax, not log_softmax.": logits.log_softmax(-1)[:, -1, 4],
        "the softmax runs over the positions: the words of the vocabulary compete, the last axis.":
            logits.softmax(1)[:, -1, 4],
        "the softmax runs over the prompts: the words of the vocabulary compete, the last axis.":
            logits.softmax(0)[:, -1, 4],
        "you read the first position: the next word is predicted at the last one.": logits.softmax(-1)[:, 0, 4],
        "off by one position: the next word is predicted at the last one, index -1.": logits.softmax(-1)[:, -2, 4],
        "a sigmoid looks at one word alone: use a softmax over the vocabulary.": logits[:, -1, 4].sigmoid()})


class Interrupted(Exception):
    """Raised on purpose inside `forward`, to see whether the hook is removed all the same."""


def _tiny_network() -> tuple[torch.nn.Linear, torch.nn.Sequential]:
    """A module that negates the second number, inside a network that clips in place and multiplies by ten."""
    module, scale = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    module.weight.data, scale.weight.data = torch.tensor([[1.0, 0], [0, -1]]), 10 * torch.eye(2)
    network = torch.nn.Sequential(module, torch.nn.ReLU(inplace=True), scale).requires_grad_(False)
    return module, network


@exercise("0.3 read_output", difficulty=2, minutes=3)
def _(attempt):
    module, network = _tiny_network()
    inputs, results = torch.tensor([[1.0, 2], [3, -4]]), []
    found = call(attempt, module, lambda: results.append(network(inputs)))
    require(results, "`forward` was never called, so nothing ran.")
    require(torch.equal(results[-1], torch.tensor([[10.0, 0], [30, 40]])),
            "the run gave another result: a hook that only reads must return None.")
    close(tensor_like(found, shape={"batch": 2, "width": 2}), [[1, -2], [3, 4]], wrong={
        "that is the input of the module: the hook gets (module, inputs, output).": inputs,
        "that is the result of the whole run, not the output of `module`.": results[-1],
        "what you kept was overwritten by a later module that works in place: keep output.clone().":
            [[1, 0], [3, 4]]})
    _removes_after_an_error(attempt, module, lambda: network(inputs))


def _removes_after_an_error(attempt, module: torch.nn.Module, forward: Callable) -> None:
    def failing():
        forward()
        raise Interrupted("on purpose")

    hidden = False
    try:
        with student_code():
            attempt(module, failing)
        hidden = True
    except Interrupted:
        pass
    left = len(module._forward_hooks)
    module._forward_hooks.clear()
    require(not left, "when `forward` raises, the hook stays: remove it in `finally`, or use `with`.")
    require(not hidden, "an error inside `forward` was swallowed: remove the hook, but let the error through.")


@lru_cache(maxsize=1)
def _tokens() -> Int[torch.Tensor, "prompt position"]:
    return torch.randint(0, shipped().cfg.d_vocab, (2, 6), generator=torch.Generator().manual_seed(0))


@lru_cache(maxsize=2)
def _logits_with_silent_mlp(layer: int) -> Float[torch.Tensor, "prompt position vocab"]:
    """The same by another way: a plain GPT-2 whose MLP in `layer` has an output projection of zeros."""
    from transformers import GPT2LMHeadModel

    plain = GPT2LMHeadModel.from_pretrained(CHECKPOINTS / "course-gpt2", dtype=torch.float32).eval()
    projection = plain.transformer.h[layer].mlp.c_proj
    with torch.no_grad():
        projection.weight.zero_()
        projection.bias.zero_()
        return plain(_tokens()).logits


@exercise("0.4 without_mlp", difficulty=2, minutes=2)
def _(attempt):
    model, tokens, layer = shipped(), _tokens(), 2

    def zero(*sites):
        return run(model, tokens, [Do(site, 0.0) for site in sites])

    right = _logits_with_silent_mlp(layer)
    only_first = torch.cat([right[:1], run(model, tokens)[1:]])
    found = tensor_like(call(attempt, model, tokens, layer),
                        shape=dict(zip(("prompt", "position", "vocab"), right.shape)))
    close(found, right, atol=1e-3, message="these are not the logits of a run in which hook_mlp_out is zero.", wrong={
        "nothing changed: did the hook return the zeros, and is it in fwd_hooks?": run(model, tokens),
        "you switched off the MLP one layer later: layers count from 0.": zero(Site("mlp_out", layer + 1)),
        "you switched off the MLP one layer earlier: layers count from 0.": zero(Site("mlp_out", layer - 1)),
        "you switched off attention: the MLP's output is called hook_mlp_out.": zero(Site("attn_out", layer)),
        "you emptied the whole residual stream: only what the MLP adds, hook_mlp_out, is to be zero.":
            zero(Site("resid_post", layer)),
        "you switched it off at the last position only: zero the whole tensor.": zero(Site("mlp_out", layer, -1)),
        "only the first prompt was changed: zero the whole tensor.": only_first})


@exercise("0.5 logits_at_end", difficulty=2, minutes=2)
def _(attempt):
    logits = torch.arange(3 * 6 * 2.0).view(3, 6, 2)      # [prompt, position, vocab], every number another
    ends = torch.tensor([5, 2, 3])
    found = tensor_like(call(attempt, logits, ends))
    require(found.shape != (3, 3, 2), "logits[:, ends] takes every end from every prompt: index the prompts as well, "
                                      "with torch.arange(len(ends)).")
    close(tensor_like(found, shape={"prompt": 3, "vocab": 2}), [[10, 11], [16, 17], [30, 31]], wrong={
        "this is still the last position of the padded row: use `ends`.": logits[:, -1],
        "every row comes from the first prompt: index the prompts too, with torch.arange(len(ends)).": logits[0, ends],
        "off by one: `ends` already is the index of the last real token.": logits[torch.arange(3), ends - 1],
        "every prompt is cut to the shortest one: each has its own end.": logits[:, 2]})

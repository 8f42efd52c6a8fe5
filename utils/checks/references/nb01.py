"""Derived from the exercise cells of solutions/01_early_decoding.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from utils import tasks


def decode(model, residual: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
    """Logits of residual vectors: what the model would say if it ended here."""
    return model.unembed(model.ln_final(residual))


def reciprocal_rank(logits: Float[Tensor, "state vocab"], answer: int) -> Float[Tensor, "state"]:
    """1 / rank of token `answer` at each state."""
    own = logits[:, [answer]]
    return 1 / ((logits > own).sum(-1) + 1)


def first_top(rank: Int[Tensor, "state prompt"]) -> Int[Tensor, "prompt"]:
    """The first state in which each answer has rank 1; -1 if it never has."""
    top = rank == 1
    return torch.where(top.any(0), top.int().argmax(0), -1)


def answer_probability(model, states: Float[Tensor, "state prompt position width"], ends: Int[Tensor, "prompt"],
                       answers: Int[Tensor, "prompt"]) -> Float[Tensor, "state prompt"]:
    """Probability of each prompt's answer, decoded from each state at the prompt's own end."""
    prompts = torch.arange(len(ends), device=ends.device)
    probability = decode(model, states[:, prompts, ends]).softmax(-1)
    return probability[:, prompts, answers]


def decode_states(model, hidden_states: tuple[Float[Tensor, "prompt position width"], ...],
                  wanted: list[int]) -> Float[Tensor, "wanted prompt vocab"]:
    """Logits at the last position of the states `wanted`; the last of `hidden_states` is already normalised.

    Broken, as above:   for i, state in enumerate([hidden_states[index] for index in wanted]):
                            state = state[:, -1:]
                            if i < len(wanted) - 1:
                                state = model.ln_final(state)
                            logits.append(model.unembed(state)[:, 0])
    """
    logits = []
    for index in wanted:
        state = hidden_states[index][:, -1:]
        if index % len(hidden_states) != len(hidden_states) - 1:
            state = model.ln_final(state)
        logits.append(model.unembed(state)[:, 0])
    return torch.stack(logits)


question = tasks.question_prompt("past", "walk", "jump")
own_prompt = question.prompt, question.answer


def answer_log_probability(model, states: Float[Tensor, "state position width"],
                           answer: Int[Tensor, "token"]) -> Float[Tensor, "state"]:
    """Log-probability (nats) of all tokens of `answer`, the end of a text with these states, at each state."""
    n = len(answer)
    scores = decode(model, states[:, -n - 1:-1]).log_softmax(-1)
    return scores[:, torch.arange(n), answer].sum(-1)

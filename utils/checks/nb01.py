"""Exercises of lesson 01: decoding states of the residual stream, and what is read off them."""
from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn.functional import layer_norm

from .. import tasks
from ..engine import at_end
from ..models import CHECKPOINTS, encode, load_model, unknown_words
from . import call, close, exercise, require, tensor_like


@lru_cache(maxsize=1)
def shipped():
    """The shipped model on the CPU; in 1.6 it is asked for its answer, elsewhere only its last two parts are used."""
    model = load_model("course-gpt2", device="cpu")
    model(torch.zeros(1, 1, dtype=torch.long))        # a first run lets the bridge put its own hooks on
    return model


# ---------------------------------------------------------------- the same by another way

@lru_cache(maxsize=1)
def _final_weights() -> dict[str, torch.Tensor]:
    """Unembedding, gain and bias of the final norm, straight from the file of the shipped model."""
    from safetensors import safe_open

    names = {"unembed": "transformer.wte.weight", "gain": "transformer.ln_f.weight", "bias": "transformer.ln_f.bias"}
    with safe_open(CHECKPOINTS / "course-gpt2" / "model.safetensors", framework="pt") as file:
        return {key: file.get_tensor(name).double() for key, name in names.items()}


def _norm(residual: torch.Tensor) -> torch.Tensor:
    weights = _final_weights()
    return layer_norm(residual.double(), residual.shape[-1:], weights["gain"], weights["bias"], 1e-5)


def _unembed(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.double() @ _final_weights()["unembed"].T


def _decode(residual: torch.Tensor) -> torch.Tensor:
    return _unembed(_norm(residual))


def _residual(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random residual vectors that are neither centred nor of length one."""
    return 2 * torch.randn(*shape, shipped().cfg.d_model, generator=torch.Generator().manual_seed(seed)) + 0.5


# ---------------------------------------------------------------- tests

@exercise("1.1 decode", difficulty=1, minutes=3)
def _(attempt):
    residual, vocab = _residual(3, 2), len(_final_weights()["unembed"])
    found = call(attempt, shipped(), residual)
    require(getattr(found, "shape", None) != residual.shape, "these are still residual vectors: unembed them.")
    found = tensor_like(found, shape={"state": 3, "prompt": 2, "vocab": vocab})
    right, width = _decode(residual), residual.shape[-1:]
    close(found, right, atol=1e-3, message="these are not the logits of unembed(ln_final(residual)).", wrong={
        "you decoded without the final norm: the unembedding expects normalised vectors.": _unembed(residual),
        "the norm came out without its learned gain and bias: call model.ln_final.":
            _unembed(layer_norm(residual.double(), width)),
        "the norm was applied twice.": _decode(_norm(residual)),
        "these are probabilities: return the logits.": right.softmax(-1),
        "these are log-probabilities: return the logits.": right.log_softmax(-1)})


@exercise("1.2 reciprocal_rank", difficulty=2, minutes=3)
def _(attempt):
    logits = torch.tensor([[0.0, 5, 2, 2, -1], [1, 2, 0, 9, 3], [5, 4, 3, 1, 2], [0, -200, -300, -400, -500]])
    answer = 3
    place = logits.argsort(dim=-1, descending=True, stable=True)[:, answer]
    found = tensor_like(call(attempt, logits, answer), shape={"state": 4})
    close(found, [1 / 2, 1, 1 / 5, 1 / 4], wrong={
        "that is the rank: return 1 / rank.": [2, 1, 5, 4],
        "off by one: the top token has rank 1 and reciprocal rank 1.": [1 / 3, 1 / 2, 1 / 6, 1 / 5],
        "the top token has rank 0 here, which gives 1 / 0: count ranks from 1.": [1, torch.inf, 1 / 4, 1 / 3],
        "the order is reversed: rank 1 is the highest logit.": [1 / 3, 1 / 5, 1, 1 / 2],
        "a tie pushed the answer down: count only tokens with a strictly higher logit.": [1 / 3, 1, 1 / 5, 1 / 4],
        "a softmax rounds very small probabilities to equal zeros: rank the logits.": [1 / 2, 1, 1 / 5, 1 / 2],
        "argsort gives the token at each place, you need the place of a token.": 1 / (place + 1)})


@exercise("1.3 first_top", difficulty=2, minutes=3)
def _(attempt):
    rank = torch.tensor([[9, 5, 7, 1], [4, 1, 6, 2], [1, 3, 5, 2], [1, 1, 2, 2]])      # [state, prompt]
    found = call(attempt, rank)
    require(not isinstance(found, (int, list, tuple)), "expected one number per prompt, as a tensor [prompt].")
    close(tensor_like(found, shape={"prompt": 4}, dtype=None), [2, 1, -1, 0], wrong={
        "an answer that is never on top gets -1: argmax over nothing but False gives 0.": [2, 1, 0, 0],
        "off by one: states are counted from 0.": [3, 2, -1, 1],
        "states are counted from 0, and an answer that is never on top gets -1.": [3, 2, 0, 1],
        "that is the last state in which it is on top: the first is asked for.": [3, 3, -1, 0],
        "that is the state from which it stays on top: the first is asked for.": [2, 3, -1, -1],
        "that is the state of the best rank, even where it is not 1.": [2, 1, 3, 0],
        "you searched along the prompts: the states are axis 0.": [3, 1, 0, 0],
        "that is the number of states in which it is on top.": [2, 2, 0, 1]})


@exercise("1.4 answer_probability", difficulty=3, minutes=5)
def _(attempt):
    states, ends, prompts = _residual(3, 4, 6), torch.tensor([5, 2, 3, 4]), torch.arange(4)
    right = _decode(states[:, prompts, ends])
    answers = right[1].argmax(-1)      # tokens that are probable somewhere, so that mistakes show

    def pick(values):
        return values.gather(-1, answers.expand(values.shape[:-1])[..., None]).squeeze(-1)

    def probability(chosen):
        return pick(_decode(chosen).softmax(-1))

    found = call(attempt, shipped(), states, ends, answers)
    require(getattr(found, "shape", None) != (3, 4, 4), "every prompt met every answer (or every end): index both with "
                                                        "torch.arange(len(ends)).")
    close(tensor_like(found, shape={"state": 3, "prompt": 4}), pick(right.softmax(-1)), atol=1e-5, wrong={
        "you read the last position of the padded row: each prompt has its own end.": probability(states[:, :, -1]),
        "off by one: `ends` already is the index of the last real token.": probability(states[:, prompts, ends - 1]),
        "every prompt was cut to the shortest one: each has its own end.": probability(states[:, :, ends.min()]),
        "you decoded without the final norm.": pick(_unembed(states[:, prompts, ends]).softmax(-1)),
        "that is the logit: a softmax over the vocabulary is missing.": pick(right),
        "that is the logarithm of the probability.": pick(right.log_softmax(-1)),
        "the softmax runs over the prompts: the words of the vocabulary compete.": pick(right.softmax(1)),
        "the softmax runs over the states: the words of the vocabulary compete.": pick(right.softmax(0))})


@exercise("1.5 decode_states", difficulty=3, minutes=5)
def _(attempt):
    raw = _residual(shipped().cfg.n_layers + 1, 2, 3)
    last = len(raw) - 1
    hidden = (*raw[:-1], _norm(raw[-1]).float())

    def end(index):
        return hidden[index][:, -1]

    def twice(indices):                                     # the last state has its norm already
        return torch.stack([_decode(end(i)) for i in indices])

    def plain(indices):
        return torch.stack([_unembed(end(i)) for i in indices])

    def right(indices):
        return torch.cat([plain([i]) if i % len(raw) == last else twice([i]) for i in indices])

    def by_place(indices):
        return torch.cat([twice(indices[:-1]), plain(indices[-1:])])

    for wanted in ([2, 4], [last, 3], [-1, 0]):
        found = tensor_like(call(attempt, shipped(), hidden, wanted),
                            shape={"wanted": 2, "prompt": 2, "vocab": len(_final_weights()["unembed"])})
        wrong = {"the last of the *chosen* states is still taken for normalised: ask which state it is, not where it "
                 "stands in the list.": by_place(wanted),
                 "no state was normalised.": plain(wanted)}
        if last in wanted:
            wrong["the last state of the model was normalised twice: it arrives normalised."] = twice(wanted)
        if -1 in wanted:
            wrong["index -1 is the last state too, and arrives normalised."] = twice(wanted)
        close(found, right(wanted), atol=1e-3, wrong=wrong,
              message=f"the logits of the states {wanted} are not those of the last position, decoded.")


@exercise("1.6 own_prompt", difficulty=1, minutes=4)
def _(attempt):
    require(isinstance(attempt, tuple) and len(attempt) == 2 and all(isinstance(part, str) for part in attempt),
            'expected two strings, (prompt, answer), such as ("The capital of Italy is", " Rome").')
    (prompt, answer), model = attempt, shipped()
    require(prompt.strip() and answer.strip(), "prompt and answer must each hold a word.")
    require(prompt != tasks.FRANCE_POLAND, "that is the lesson's prompt: write one of your own.")
    require(not prompt.endswith(" "), "the prompt ends in a space: that space belongs to the answer.")
    require(answer.startswith(" "), f"the answer needs its leading space: {' ' + answer!r}.")
    unknown = unknown_words(model, prompt + answer)
    require(not unknown, f"the shipped model never saw {', '.join(unknown)}: choose words it knows (utils.tasks).")
    ids = model.tokenizer.encode(answer, add_special_tokens=False)
    require(len(ids) == 1, f"the answer is {len(ids)} tokens, {' | '.join(map(model.tokenizer.decode, ids))}: choose a "
                           "word that is one.")
    length = len(model.tokenizer.encode(prompt, add_special_tokens=False)) + 1
    require(length <= model.cfg.n_ctx, f"the prompt has {length} tokens, at most {model.cfg.n_ctx} fit.")
    top = int(at_end(model, encode(model, prompt)).argmax())
    require(top == ids[0], f"the shipped model answers {model.tokenizer.decode([top])!r}: choose a prompt that it gets "
                           "right, or we would follow a wrong answer through the layers.")


@exercise("1.7 answer_log_probability", difficulty=4, minutes=7)
def _(attempt):
    states = _residual(3, 7)
    scores = _decode(states).log_softmax(-1)
    answer = scores[1, -4:-1].argmax(-1)                    # three tokens, so positions 3, 4 and 5 predict them

    def pick(shift):
        return scores[:, torch.arange(3) + 3 + shift, answer]

    found = tensor_like(call(attempt, shipped(), states, answer), shape={"state": 3})
    close(found, pick(0).sum(-1), atol=1e-3, wrong={
        "off by one: the position of a token predicts the next one.": pick(1).sum(-1),
        "off by one: you began one position too early.": pick(-1).sum(-1),
        "only the first token of the answer counted.": pick(0)[:, 0],
        "only the last token of the answer counted.": pick(0)[:, -1],
        "that is the mean: the log-probabilities of the tokens add up.": pick(0).mean(-1),
        "that is the probability: its logarithm is asked for.": pick(0).sum(-1).exp(),
        "probabilities multiply, their logarithms add up.": pick(0).prod(-1),
        "log-probabilities add up, probabilities do not.": pick(0).exp().sum(-1)})

"""Answers to the exercises of lesson 01, see the top of tests/checks/test_exercises.py."""
import torch
from torch.nn.functional import layer_norm

from utils.decoding import decode

# ---------------------------------------------------------------- 1.1


def by_hand(model, residual):
    norm, centred = model.ln_final, residual - residual.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    return (scaled * norm.weight + norm.bias) @ model.unembed.W_U


def state_by_state(model, residual):
    return torch.stack([model.unembed(model.ln_final(state)) for state in residual])


def in_place(model, residual):
    residual -= residual.mean(-1, keepdim=True)
    return model.unembed(model.ln_final(residual))


# ---------------------------------------------------------------- 1.2 and 1.3

def ranked(count=lambda row, own: (row > own).sum(), change=lambda rank: 1 / rank):
    return lambda logits, answer: torch.stack([change(count(row, row[answer]) + 1) for row in logits])


def at_that_place(logits, answer):
    return 1 / (logits.argsort(dim=-1, descending=True, stable=True)[:, answer] + 1)


def strictly_sorted(logits, answer):
    ordered = logits.sort(-1, descending=True).values
    return 1 / ((ordered == logits[:, answer, None]).float().argmax(-1) + 1)


def loop_first(rank):
    found = torch.full((rank.shape[1],), -1)
    for state in reversed(range(len(rank))):
        found[rank[state] == 1] = state
    return found


def stays(rank):
    below = (rank != 1).flip(0).int().argmax(0)
    never = (rank != 1).flip(0).any(0)
    start = torch.where(never, len(rank) - below, 0)
    return torch.where(start < len(rank), start, -1)


def last_top(rank):
    top = (rank == 1).flip(0)
    return torch.where(top.any(0), len(rank) - 1 - top.int().argmax(0), -1)


# ---------------------------------------------------------------- 1.4

def probability(position=lambda states, ends: states[:, torch.arange(len(ends)), ends], decoded=decode,
                change=lambda logits: logits.softmax(-1)):
    def compute(model, states, ends, answers):
        values = change(decoded(model, position(states, ends)))
        return values.gather(-1, answers.expand(values.shape[:-1])[..., None]).squeeze(-1)
    return compute


def every_answer(model, states, ends, answers):
    return decode(model, states[:, torch.arange(len(ends)), ends]).softmax(-1)[..., answers]


def prompt_by_prompt(model, states, ends, answers):
    columns = [decode(model, states[:, i, end]).log_softmax(-1)[:, answer].exp()
               for i, (end, answer) in enumerate(zip(ends.tolist(), answers.tolist()))]
    return torch.stack(columns, 1)


# ---------------------------------------------------------------- 1.5

def states_decoded(is_done, position=-1):
    """Decode the chosen states; `is_done(place, index, wanted, n)` says which ones are left without the norm."""
    def compute(model, hidden_states, wanted):
        logits = []
        for place, index in enumerate(wanted):
            state = hidden_states[index][:, position]
            done = is_done(place, index, wanted, len(hidden_states))
            logits.append(model.unembed(state if done else model.ln_final(state)))
        return torch.stack(logits)
    return compute


def identity_of_the_tensor(model, hidden_states, wanted):
    ready = [model.ln_final(state) for state in hidden_states[:-1]] + [hidden_states[-1]]
    return model.unembed(torch.stack([ready[index][:, -1] for index in wanted]))


# ---------------------------------------------------------------- 1.7

def summed(shift=0, change=lambda values: values.sum(-1)):
    def compute(model, states, answer):
        n, length = len(answer), states.shape[1]
        scores = decode(model, states).log_softmax(-1)
        return change(torch.stack([scores[:, length - n - 1 + j + shift, answer[j]] for j in range(n)], -1))
    return compute


QUESTION = "Q: What is the past tense of jump?\nA: jumped\nQ: What is the past tense of play?\nA:"

WRONG = {
    "1.1 decode": [
        (lambda model, residual: model.unembed(residual), "without the final norm"),
        (lambda model, residual: model.unembed(layer_norm(residual, residual.shape[-1:])), "learned gain and bias"),
        (lambda model, residual: model.unembed(model.ln_final(model.ln_final(residual))), "applied twice"),
        (lambda model, residual: model.ln_final(residual), "still residual vectors"),
        (lambda model, residual: decode(model, residual).softmax(-1), "these are probabilities"),
        (lambda model, residual: decode(model, residual).log_softmax(-1), "these are log-probabilities"),
        (lambda model, residual: decode(model, residual)[:, -1], "axis prompt is missing"),
        (in_place, "changed its argument"),
        (lambda model, residual: decode(model, residual) / 2, "these are not the logits")],
    "1.2 reciprocal_rank": [
        (ranked(change=lambda rank: rank.float()), "that is the rank"),
        (ranked(change=lambda rank: 1 / (rank + 1)), "off by one"),
        (ranked(change=lambda rank: 1 / (rank - 1)), "count ranks from 1"),
        (ranked(lambda row, own: (row < own).sum()), "order is reversed"),
        (ranked(lambda row, own: (row >= own).sum() - 1), "a tie pushed"),
        (lambda logits, answer: ranked()(logits.softmax(-1), answer), "rank the logits"),
        (at_that_place, "the place of a token")],
    "1.3 first_top": [
        (lambda rank: (rank == 1).int().argmax(0), "never on top gets -1"),
        (lambda rank: torch.where(loop_first(rank) < 0, -1, loop_first(rank) + 1), "off by one"),
        (lambda rank: loop_first(rank).clamp(min=-1) + 1, "counted from 0, and"),
        (last_top, "the last state in which"),
        (stays, "from which it stays"),
        (lambda rank: rank.argmin(0), "even where it is not 1"),
        (lambda rank: (rank == 1).int().argmax(1), "along the prompts"),
        (lambda rank: (rank == 1).sum(0), "number of states")],
    "1.4 answer_probability": [
        (probability(lambda states, ends: states[:, :, -1]), "last position of the padded row"),
        (probability(lambda states, ends: states[:, torch.arange(len(ends)), ends - 1]), "off by one"),
        (probability(lambda states, ends: states[:, :, ends.min()]), "cut to the shortest"),
        (probability(decoded=lambda model, chosen: model.unembed(chosen)), "without the final norm"),
        (probability(change=lambda logits: logits), "that is the logit"),
        (probability(change=lambda logits: logits.log_softmax(-1)), "logarithm"),
        (probability(change=lambda logits: logits.softmax(1)), "over the prompts"),
        (probability(change=lambda logits: logits.softmax(0)), "over the states"),
        (every_answer, "every prompt met every answer")],
    "1.5 decode_states": [
        (states_decoded(lambda place, index, wanted, n: place == len(wanted) - 1), "last of the *chosen* states"),
        (states_decoded(lambda place, index, wanted, n: False), "normalised twice"),
        (states_decoded(lambda place, index, wanted, n: True), "no state was normalised"),
        (states_decoded(lambda place, index, wanted, n: index == n - 1), "index -1 is the last state too"),
        (states_decoded(lambda place, index, wanted, n: index % n == n - 1, position=0), "are not those of the last")],
    "1.6 own_prompt": [
        ("The capital of Italy is", "expected two strings"),
        (("The capital of Italy is", "Rome"), "leading space"),
        (("The capital of Italy is ", " Rome"), "ends in a space"),
        (("", " Rome"), "must each hold a word"),
        (("The capital of Atlantis is", " Rome"), "never saw Atlantis"),
        (("The capital of Italy is", " New Zealand"), "is 2 tokens"),
        (("The capital of Italy is", " jumped"), "the shipped model answers"),
        ((QUESTION * 20, " played"), "at most 128 fit")],
    "1.7 answer_log_probability": [
        (summed(shift=1), "predicts the next one"),
        (summed(shift=-1), "one position too early"),
        (summed(change=lambda values: values[:, 0]), "only the first token"),
        (summed(change=lambda values: values[:, -1]), "only the last token"),
        (summed(change=lambda values: values.mean(-1)), "that is the mean"),
        (summed(change=lambda values: values.sum(-1).exp()), "that is the probability"),
        (summed(change=lambda values: values.prod(-1)), "probabilities multiply"),
        (summed(change=lambda values: values.exp().sum(-1)), "probabilities do not")],
}
RIGHT = {
    "1.1 decode": [by_hand, state_by_state],
    "1.2 reciprocal_rank": [ranked(), strictly_sorted],
    "1.3 first_top": [loop_first],
    "1.4 answer_probability": [probability(), prompt_by_prompt],
    "1.5 decode_states": [states_decoded(lambda place, index, wanted, n: index in (-1, n - 1)), identity_of_the_tensor],
    "1.6 own_prompt": [(QUESTION, " played")],
    "1.7 answer_log_probability": [summed()],
}

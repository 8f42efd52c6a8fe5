"""Checks of notebook 04: repeated tokens, the stripe of induction, knocking heads out, the circuit of two heads."""
from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float

from .. import tasks
from ..engine import Do, Site, run
from ..models import load_model
from . import call, close, exercise, require, tensor_like


# ---------------------------------------------------------------- sequences, probabilities, scores

@exercise("4.1 repeated_tokens", difficulty=1, minutes=4)
def _(attempt):
    n, period, vocabulary, bos = 40, 12, 7, 3

    def draw(seed):
        return tensor_like(call(attempt, n, period, vocabulary, bos, torch.Generator().manual_seed(seed)),
                           shape={"sequence": n, "position": 1 + 2 * period}, dtype=int)

    tokens = draw(0)
    require(not ((tokens[:, -1] == bos).all() and not (tokens[:, 0] == bos).all()),
            "BOS still stands at the end, where nobody reads it: it comes first.")
    require((tokens[:, 0] == bos).all(), f"every row must begin with BOS, here {bos}: the first token is not `bos`.")
    first, second = tokens[:, 1:1 + period], tokens[:, 1 + period:]
    require(not torch.equal(second, first.flip(1)), "the second half is the first one backwards.")
    require(torch.equal(first, second), "the two halves differ: draw one half, and use it twice.")
    require(not (first == bos).any(), f"BOS, here {bos}, was drawn among the random tokens: leave it out.")
    seen, wanted = set(first.unique().tolist()), set(range(vocabulary)) - {bos}
    require(seen <= wanted, f"tokens go from 0 to {vocabulary - 1}: {max(seen)} was drawn.")
    require(not (first[0] == first).all(), "all rows are the same: draw each on its own.")
    missing = sorted(wanted - seen)
    require(not missing, f"with a vocabulary of {vocabulary} and BOS {bos} the token {missing[:1]} is never drawn: "
            "every token but BOS must be possible.")
    require(torch.equal(tokens, draw(0)), "the same generator gave two different texts: pass it on, "
            "generator=generator.")
    require(not torch.equal(tokens, draw(1)), "another generator gave the same text: pass it on, generator=generator.")
    counts = first.flatten().bincount(minlength=vocabulary)[list(wanted)]
    require(counts.max() < 1.7 * counts.min(), "some tokens are drawn twice as often as others: is BOS replaced by its "
                                               "neighbour? Draw from vocabulary - 1 numbers instead.")


@exercise("4.2 log_probabilities", difficulty=2, minutes=4)
def _(attempt):
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(2, 5, 7, generator=generator) * 2, torch.tensor([[0, 3, 5, 3, 5], [0, 6, 1, 6, 1]])
    found = tensor_like(call(attempt, logits, tokens))
    logs = logits.log_softmax(-1)

    def take(values, wanted):
        return torch.stack([torch.stack([row[int(t)] for row, t in zip(rows, ids)]) for rows, ids in zip(values, wanted)])

    right = take(logs[:, :-1], tokens[:, 1:])
    require(found.shape != (2, 5), "there is one number too many in each row: nothing is said about BOS, and the last "
                                   "logits are about a token that is not there.")
    close(tensor_like(found, shape={"sequence": 2, "target": 4}), right, wrong={
        "off by one: these logits are read at the token they stand at, but they are about the next one.":
            take(logs[:, 1:], tokens[:, 1:]),
        "off by one: the logits and the tokens are both cut at the end, so they still belong to different tokens.":
            take(logs[:, :-1], tokens[:, :-1]),
        "the shift goes the wrong way: logits[:, :-1] belong to tokens[:, 1:].": take(logs[:, 1:], tokens[:, :-1]),
        "these are probabilities: take their logarithm.": right.exp(),
        "these are logits: take log_softmax over the vocabulary first.": take(logits[:, :-1], tokens[:, 1:]),
        "the softmax runs over the wrong axis: over the vocabulary, the last one.":
            take(logits.log_softmax(1)[:, :-1], tokens[:, 1:]),
        "the sign is flipped: this is the loss.": -right,
        "that is the logarithm to base 2: natural logarithms are wanted.": right / torch.tensor(2.0).log(),
        "these are the largest log-probabilities, not those of the token that stands there.": logs[:, :-1].amax(-1)})


def _planted(period: int) -> Float[torch.Tensor, "head query key"]:
    """Patterns of an induction head, a duplicate-token head and one at rest, with a little of everything in between."""
    queries = torch.arange(period + 1, 2 * period + 1)
    width, generator = 2 * period + 1, torch.Generator().manual_seed(period)
    pattern = torch.rand(3, width, width, generator=generator).tril() * 0.05
    pattern[0, queries, queries + 1 - period] = torch.linspace(0.6, 0.9, period)
    pattern[1, queries, queries - period] = 0.8
    pattern[2, :, 0] = 0.9
    pattern[2, period, 1] = 0.7
    return pattern


@exercise("4.3 induction_score", difficulty=3, minutes=6)
def _(attempt):
    for period in (4, 6):
        pattern, width = _planted(period), 2 * period + 1

        def over(shift, start, end=width):
            return torch.stack([pattern[:, q, q - shift] for q in range(start, end)]).mean(0)

        found = tensor_like(call(attempt, pattern, period))
        require(found.shape != (), "one number for each head is asked for: average over the positions only.")
        close(tensor_like(found, shape={"head": 3}), over(period - 1, period + 1), wrong={
            "that is the duplicate-token head: it looks at the earlier copy itself, and induction one further. (And "
            "query S, at which no token has come back, is counted.)": over(period, period),
            "that is the duplicate-token head: it looks at the earlier copy itself, induction one further.":
                over(period, period + 1),
            "the whole diagonal is counted, with two queries at which no token has come back yet (the first is the one "
            "that looks at BOS).": over(period - 1, period - 1),
            "one query is counted at which no token has come back yet: the last of the first half, position S.":
                over(period - 1, period),
            "off by one: the key is two after the earlier copy.": over(period - 2, period + 1),
            "one query too few: the second half begins at S + 1.": over(period - 1, period + 2),
            "one query too few: 2 S, the last one, counts.": over(period - 1, period + 1, width - 1),
            "that is a sum: take the mean.": over(period - 1, period + 1) * period,
            "that is the previous-token head.": over(1, period + 1),
            "queries and keys are exchanged: the query is the later one, and the last axis is the key.":
                torch.stack([pattern[:, q + 1 - period, q] for q in range(period + 1, width)]).mean(0)})
    lead = _planted(4)[None].repeat(2, 1, 1, 1)
    found = tensor_like(call(attempt, lead, 4), shape={"layer": 2, "head": 3})
    close(found, torch.stack([lead[..., q, q - 3] for q in range(5, 9)]).mean(0))


# ---------------------------------------------------------------- heads that put out nothing

@lru_cache(maxsize=1)
def _model():
    """The shipped architecture with random weights, large enough that every mistake changes the numbers."""
    model, generator = load_model("course-gpt2", device="cpu"), torch.Generator().manual_seed(0)
    for values in model.parameters():
        values.normal_(0, 0.15, generator=generator)
    model(torch.zeros(1, 1, dtype=torch.long))        # a first run lets the bridge put its own hooks on
    return model


@exercise("4.4 knock_out", difficulty=3, minutes=6)
def _(attempt):
    tokens = tasks.generate_repeated_tokens(2, 3, 500, seed=2)

    def gone(sites):
        return run(_model(), tokens, [Do(site, 0.0) for site in sites])

    def heads(chosen):
        return [Site("z", layer, None, head) for layer, head in chosen]

    message = "these are not the logits of a run in which exactly these heads are zero."
    for chosen in ([(1, 2)], [(0, 1), (2, 3)], [(2, 0), (2, 3), (4, 1)]):
        found = tensor_like(call(attempt, _model(), tokens, chosen),
                            shape={"sequence": 2, "position": 7, "vocab": _model().cfg.d_vocab})
        wrong = {
            "nothing changed: does the hook return z, and is it put on blocks.{layer}.attn.hook_z?": gone([]),
            "whole layers are gone: index the axis of the heads, z[:, :, head].":
                gone([Site("z", layer) for layer, _ in chosen]),
            "the head is silent at the last position only: at all positions, please.":
                gone([Site("z", layer, -1, head) for layer, head in chosen]),
            "`head` was used as a position: the axes are sequence, position, head, width.":
                gone([Site("z", layer, head) for layer, head in chosen]),
            "the next head is gone: heads count from 0.": gone(heads([(layer, head + 1) for layer, head in chosen])),
            "the queries are zero, not the output: hook_z.":
                gone([Site("q", layer, None, head) for layer, head in chosen])}
        if len(chosen) > 1:
            last = chosen[-1][1]
            wrong |= {"only the first head is gone: all of them, together.": gone(heads(chosen[:1])),
                      "only the last head is gone: all of them, together.": gone(heads(chosen[-1:])),
                      "every hook silences the last head of the list: hooks made in a loop share its variable. Make "
                      "each with a function.": gone(heads([(layer, last) for layer, _ in chosen]))}
        close(found, run(_model(), tokens, [Do(site, 0.0) for site in heads(chosen)]), message=message, wrong=wrong)
    close(tensor_like(call(attempt, _model(), tokens, [])), gone([]),
          message="with no heads chosen it must be the plain run.")


# ---------------------------------------------------------------- weights

def _weights(width: int = 6, size: int = 2, seed: int = 0):
    """early_v, early_o, late_q, late_k, none of them of unit size."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.6

    return draw(width, size), draw(size, width), draw(width, size), draw(width, size)


@exercise("4.5 k_composition", difficulty=3, minutes=5)
def _(attempt):
    one, other, axis = torch.tensor([[1.0], [0], [0]]), torch.tensor([[0.0], [1], [0]]), torch.tensor([[0.0], [0], [1]])
    fits = tensor_like(call(attempt, axis, 2 * one.T, 3 * axis, one), shape=())
    require(abs(fits - 6) > 1e-4, "divide by both norms: a head with weights twice as large does not fit better.")
    require(abs(fits) > 1e-4, "0 for a pair that fits perfectly: is it the key side that meets what was written?")
    close(fits, 1.0, message=f"for a pair that fits perfectly it must be 1: got {fits.item():.3g}.")
    misses = tensor_like(call(attempt, axis, one.T, one, other), shape=())
    require(abs(misses - 1) > 1e-4, "that is Q-composition: here the queries read what was written, the keys do not.")
    close(misses, 0.0, message=f"the keys read nothing that was written, so it must be 0: got {misses.item():.3g}.")
    v, o, q, k = _weights()
    writes, reads = v @ o, q @ k.T
    norm = torch.linalg.matrix_norm
    right = norm(reads @ writes.T) / norm(reads) / norm(writes)
    close(tensor_like(call(attempt, v, o, q, k), shape=()), right, wrong={
        "that is Q-composition: the key side of `reads` meets what was written.":
            norm(writes @ reads) / norm(reads) / norm(writes),
        "`writes` is transposed, or not where it should be: the output side of the early head meets the keys.":
            norm(reads @ writes) / norm(reads) / norm(writes),
        "it is not divided by the norm of `writes`.": norm(reads @ writes.T) / norm(reads),
        "it is not divided by the norm of `reads`.": norm(reads @ writes.T) / norm(writes),
        "it is not divided by the norms.": norm(reads @ writes.T),
        "that is the spectral norm: take the Frobenius norm.":
            norm(reads @ writes.T, ord=2) / norm(reads, ord=2) / norm(writes, ord=2),
        "that is the square of the score.": right ** 2,
        "only the keys are used: the product goes through queries and keys.":
            norm(k.T @ writes.T) / norm(k) / norm(writes),
        "divide by the norm of each product, `reads` and `writes`, not by those of all four matrices.":
            norm(reads @ writes.T) / norm(q) / norm(k) / norm(v) / norm(o)})


def _dense(result) -> torch.Tensor:
    """A FactoredMatrix or a tensor, as a tensor."""
    return tensor_like(result.AB if hasattr(result, "AB") else result)


@exercise("4.6 circuit", difficulty=3, minutes=5)
def _(attempt):
    v, o, q, k = _weights(seed=1)
    vectors = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    result = call(attempt, vectors, v, o, q, k)
    require(hasattr(result, "AB") or isinstance(result, torch.Tensor), "expected a FactoredMatrix(queries, keys.T).")
    right = (vectors @ q) @ (vectors @ v @ o @ k).T
    found = _dense(result)
    require(found.shape != (6, 6), "that is [width, width]: the tokens are missing, `vectors` begins both sides.")
    close(found, right, wrong={
        "queries and keys are exchanged: the first axis is the query token.": right.T,
        "the early head is missing: keys go through early_v and early_o first.": (vectors @ q) @ (vectors @ k).T,
        "the early head is on the query side: it wrote at the key.": (vectors @ v @ o @ q) @ (vectors @ k).T,
        "the early head is on both sides: the query is read from the token itself.":
            (vectors @ v @ o @ q) @ (vectors @ v @ o @ k).T,
        "late_q and late_k are exchanged.": (vectors @ k) @ (vectors @ v @ o @ q).T,
        "the token's own vector is added to what the early head wrote: only what the head wrote is wanted.":
            (vectors @ q) @ ((vectors + vectors @ v @ o) @ k).T})
    require(hasattr(result, "AB"), "right, but a full matrix: return FactoredMatrix(queries, keys.T), as that of a "
            "real vocabulary does not fit into memory.")
    require(result.A.shape[-1] < 5, "right, but multiplied out: A and B of the FactoredMatrix must stay thin, "
            "FactoredMatrix(queries, keys.T).")


@exercise("4.7 donors", difficulty=2, minutes=3)
def _(attempt):
    for period in (3, 5):
        found, end = call(attempt, period), 2 * period
        require(hasattr(found, "items"), "expected a dictionary {position: donor}.")
        found = {int(position): int(donor) for position, donor in found.items()}
        require(0 not in found.values(), "BOS, position 0, is still a donor: the first position that is replaced is "
                "the last of the first half.")
        require(not any(0 < position <= period for position in found), "a position of the first half is replaced: only "
                "those of the second, S + 1 to 2 S.")
        last = max(found, default=0)
        require(last <= end, f"position {last} does not exist: the last is 2 S = {end}.")
        wrong = [position for position, donor in found.items() if donor != position - period]
        require(not wrong, f"at position {wrong[:1]} stands another token than at its donor, S places earlier.")
        missing = sorted(set(range(period + 1, end + 1)) - set(found))
        require(not missing, f"position {missing[:1]} of the second half, S + 1 to 2 S, is missing for S = {period}.")

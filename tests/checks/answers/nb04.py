"""Answers to the exercises of lesson 04, see the top of tests/checks/test_exercises.py."""
import torch
from transformer_lens import FactoredMatrix

from utils.engine import Do, Site, run


# ---------------------------------------------------------------- 4.1

def drawn(first=True, without_bos=True, twice=True, backwards=False, own_rows=True, seeded=True):
    """The repeated tokens with one flaw at a time."""
    def make(n, period, vocabulary, bos, generator):
        if seeded is not True:
            generator = None if seeded is None else torch.Generator().manual_seed(seeded)

        def draw():
            half = torch.randint(0, vocabulary - without_bos, (n if own_rows else 1, period), generator=generator)
            return (half + (half >= bos) if without_bos else half).expand(n, -1)
        half, start = draw(), [torch.full((n, 1), bos)]
        parts = [half, half.flip(1) if backwards else half if twice else draw()]
        return torch.cat(start + parts if first else parts + start, 1)
    return make


def hasty_tokens(n, period, vocabulary, bos, generator):
    half = torch.randint(0, vocabulary, (n, period), generator=generator)
    return torch.cat([half, half, torch.full((n, 1), bos)], dim=1)


def from_one(n, period, vocabulary, bos, generator):
    """Leaves out 0, which is BOS only by chance."""
    half = torch.randint(1, vocabulary, (n, period), generator=generator)
    return torch.cat([torch.full((n, 1), bos), half, half], dim=1)


def neighbour(n, period, vocabulary, bos, generator):
    half = torch.randint(0, vocabulary, (n, period), generator=generator)
    half[half == bos] = (bos + 1) % vocabulary
    return torch.cat([torch.full((n, 1), bos), half, half], dim=1)


def too_large(n, period, vocabulary, bos, generator):
    half = torch.randint(0, vocabulary, (n, period), generator=generator)
    half = half + (half >= bos)
    return torch.cat([torch.full((n, 1), bos), half, half], dim=1)


def from_a_list(n, period, vocabulary, bos, generator):
    allowed = torch.tensor([token for token in range(vocabulary) if token != bos])
    half = allowed[torch.randint(len(allowed), (n, period), generator=generator)]
    tokens = torch.full((n, 2 * period + 1), bos)
    tokens[:, 1:period + 1] = tokens[:, period + 1:] = half
    return tokens


def with_multinomial(n, period, vocabulary, bos, generator):
    chances = torch.ones(vocabulary)
    chances[bos] = 0
    half = torch.multinomial(chances, n * period, replacement=True, generator=generator).view(n, period)
    return torch.nn.functional.pad(half.repeat(1, 2), (1, 0), value=bos)


# ---------------------------------------------------------------- 4.2

def picked(logits, tokens):
    return logits.gather(-1, tokens[..., None]).squeeze(-1)


def with_cross_entropy(logits, tokens):
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return -losses


def with_loops(logits, tokens):
    rows = []
    for row, ids in zip(logits, tokens):
        rows.append(torch.stack([row[i].softmax(-1)[ids[i + 1]].log() for i in range(len(ids) - 1)]))
    return torch.stack(rows)


# ---------------------------------------------------------------- 4.3

def diagonal(shift, skip=0):
    """The mean of one diagonal, as `torch.diagonal` gives it, without its first `skip` entries."""
    return lambda pattern, period: pattern.diagonal(offset=shift(period), dim1=-2, dim2=-1)[..., skip:].mean(-1)


def between(start, end=lambda s: 2 * s + 1, back=lambda s: s - 1, total=torch.mean):
    def score(pattern, period):
        queries = torch.arange(start(period), end(period))
        return total(pattern[..., queries, queries - back(period)], -1)
    return score


def with_a_mask(pattern, period):
    place = torch.arange(pattern.shape[-1])
    stripe = (place[:, None] - place == period - 1) & (place[:, None] > period)
    return (pattern * stripe).sum((-2, -1)) / stripe.sum()


# ---------------------------------------------------------------- 4.4

def hooked(write, name="attn.hook_z", shared=False, only=slice(None)):
    """A knock-out with hooks; `write(z, head)` changes z in place. `shared`: all hooks see the last head of a loop."""
    def knock_out(model, tokens, chosen):
        def make(head):
            def hook(z, hook):
                z = z.clone()
                write(z, head)
                return z
            return hook
        hooks, last = [], chosen[-1][1] if chosen else None
        for layer, head in chosen[only]:
            hooks.append((f"blocks.{layer}.{name}", make(last if shared else head)))
        return model.run_with_hooks(tokens, fwd_hooks=hooks, prepend_bos=False)
    return knock_out


def zero(*where):
    """Zeros at z[where]; "head" stands for the head that is asked for."""
    def write(z, head):
        z[tuple(head if part == "head" else part for part in where)] = 0
    return write


EVERY = slice(None)
silent = zero(EVERY, EVERY, "head")


def forgets_return(model, tokens, chosen):
    def silence(head):
        def hook(z, hook):
            z.clone()[:, :, head] = 0
        return hook
    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{i}.attn.hook_z", silence(h)) for i, h in chosen])


def by_the_engine(model, tokens, chosen):
    return run(model, tokens, [Do(Site("z", layer, None, head), 0.0) for layer, head in chosen])


def with_a_mask_per_layer(model, tokens, chosen):
    keep = torch.ones(model.cfg.n_layers, model.cfg.n_heads)
    for head in chosen:
        keep[head] = 0
    hooks = [(f"blocks.{i}.attn.hook_z", lambda z, hook, i=i: z * keep[i][:, None]) for i in range(model.cfg.n_layers)]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def leaves_its_hook(model, tokens, chosen):
    model.blocks[0].register_forward_hook(lambda module, args, output: None)
    return by_the_engine(model, tokens, chosen)


# ---------------------------------------------------------------- 4.5 and 4.6

KEYS = lambda reads, writes: reads @ writes.T


def composed(product=KEYS, divide=True, power=1, norm=torch.linalg.matrix_norm):
    def score(early_v, early_o, late_q, late_k):
        writes, reads = early_v @ early_o, late_q @ late_k.T
        value = norm(product(reads, writes))
        return (value / (norm(reads) * norm(writes)) if divide else value) ** power
    return score


def with_traces(early_v, early_o, late_q, late_k):
    """The same number from small matrices: ||M||^2 is the trace of M M^T."""
    square = lambda left, right: ((left.T @ left) * (right @ right.T).T).sum()
    inner = early_o @ late_k
    whole = ((early_v.T @ early_v) @ inner @ (late_q.T @ late_q) @ inner.T).trace()
    return (whole / square(late_q, late_k.T) / square(early_v, early_o)).sqrt()


def with_factored(early_v, early_o, late_q, late_k):
    writes, reads = FactoredMatrix(early_v, early_o), FactoredMatrix(late_q, late_k.T)
    return (reads @ writes.T).norm() / reads.norm() / writes.norm()


def factored(queries, keys, turn=False):
    """A circuit from two functions of the vectors and the weights."""
    def make(vectors, early_v, early_o, late_q, late_k):
        left, right = (side(vectors, early_v @ early_o, late_q, late_k) for side in (queries, keys))
        return FactoredMatrix(right, left.T) if turn else FactoredMatrix(left, right.T)
    return make


straight, moved = lambda x, ov, q, k: x @ q, lambda x, ov, q, k: x @ ov @ k


def multiplied_out(vectors, early_v, early_o, late_q, late_k):
    return FactoredMatrix(vectors, (vectors @ early_v @ early_o @ late_k @ late_q.T).T)


def step_by_step(vectors, early_v, early_o, late_q, late_k):
    return FactoredMatrix(vectors, late_q) @ FactoredMatrix(late_k.T, (vectors @ (early_v @ early_o)).T)


WRONG = {
    "4.1 repeated_tokens": [
        (hasty_tokens, "BOS still stands at the end"),
        (drawn(first=False), "BOS still stands at the end"),
        (drawn(without_bos=False), "was drawn among the random tokens"),
        (from_one, "was drawn among the random tokens"),
        (drawn(twice=False), "the two halves differ"),
        (drawn(backwards=True), "backwards"),
        (drawn(own_rows=False), "all rows are the same"),
        (drawn(seeded=None), "the same generator gave two different texts"),
        (drawn(seeded=5), "another generator gave the same text"),
        (neighbour, "twice as often"),
        (too_large, "tokens go from 0 to 6"),
        (lambda n, period, vocabulary, bos, draw: from_a_list(n, period, vocabulary, bos, draw)[:, 1:], "has shape"),
        (lambda n, period, vocabulary, bos, draw: from_a_list(n, period, 7, bos, draw) + 1, "must begin with BOS"),
        (lambda n, period, vocabulary, bos, draw: from_a_list(n, period, 6, bos, draw), "is never drawn")],
    "4.2 log_probabilities": [
        (lambda logits, tokens: picked(logits.log_softmax(-1), tokens), "one number too many"),
        (lambda logits, tokens: picked(logits[:, 1:].log_softmax(-1), tokens[:, 1:]), "off by one: these logits"),
        (lambda logits, tokens: picked(logits[:, :-1].log_softmax(-1), tokens[:, :-1]), "both cut at the end"),
        (lambda logits, tokens: picked(logits[:, 1:].log_softmax(-1), tokens[:, :-1]), "the wrong way"),
        (lambda logits, tokens: picked(logits[:, :-1].softmax(-1), tokens[:, 1:]), "these are probabilities"),
        (lambda logits, tokens: picked(logits[:, :-1], tokens[:, 1:]), "these are logits"),
        (lambda logits, tokens: picked(logits.log_softmax(1)[:, :-1], tokens[:, 1:]), "the wrong axis"),
        (lambda logits, tokens: -with_loops(logits, tokens), "the sign is flipped"),
        (lambda logits, tokens: with_loops(logits, tokens) / 0.6931472, "to base 2"),
        (lambda logits, tokens: logits[:, :-1].log_softmax(-1).amax(-1), "the largest log-probabilities"),
        (lambda logits, tokens: with_loops(logits, tokens).mean(-1), "the axis target is missing"),
        (lambda logits, tokens: with_loops(logits[:1], tokens), "expected [sequence 2, target 4]")],
    "4.3 induction_score": [
        (diagonal(lambda s: -s), "and induction one further. (And query S"),
        (diagonal(lambda s: -s, 1), "it looks at the earlier copy itself, induction"),
        (diagonal(lambda s: 1 - s), "the whole diagonal is counted"),
        (diagonal(lambda s: 1 - s, 1), "the last of the first half"),
        (diagonal(lambda s: 1 - s, 3), "begins at S + 1"),
        (diagonal(lambda s: s - 1, 2), "queries and keys are exchanged"),
        (between(lambda s: s + 1, end=lambda s: 2 * s), "the last one, counts"),
        (between(lambda s: s + 1, back=lambda s: s - 2), "two after the earlier copy"),
        (between(lambda s: s + 1, back=lambda s: 1), "previous-token head"),
        (between(lambda s: s + 1, total=torch.sum), "that is a sum"),
        (lambda pattern, period: with_a_mask(pattern, period).mean(), "one number for each head"),
        (lambda pattern, period: between(lambda s: s + 1, total=lambda x, _: x)(pattern, period).mean(1),
            "expected [layer 2, head 3]")],
    "4.4 knock_out": [
        (forgets_return, "nothing changed"),
        (lambda model, tokens, chosen: model(tokens), "nothing changed"),
        (hooked(zero(EVERY)), "whole layers are gone"),
        (hooked(zero(EVERY, -1, "head")), "last position only"),
        (hooked(zero(EVERY, "head")), "used as a position"),
        (hooked(lambda z, head: silent(z, head + 1)), "the next head is gone"),
        (hooked(silent, "attn.hook_q"), "the queries are zero"),
        (hooked(silent, only=slice(1)), "only the first head is gone"),
        (hooked(silent, only=slice(-1, None)), "only the last head is gone"),
        (hooked(silent, shared=True), "hooks made in a loop"),
        (hooked(zero(0, EVERY, "head")), "not the logits of a run"),
        (leaves_its_hook, "left 1 hook")],
    "4.5 k_composition": [
        (composed(lambda reads, writes: writes @ reads), "is it the key side"),
        (composed(lambda reads, writes: reads @ writes), "is it the key side"),
        (composed(divide=False), "divide by both norms"),
        (composed(power=2), "square of the score"),
        (composed(norm=lambda matrix: torch.linalg.matrix_norm(matrix, 2)), "spectral norm"),
        (lambda v, o, q, k: (k.T @ (v @ o).T).norm() / k.norm() / (v @ o).norm(), "only the keys are used"),
        (lambda v, o, q, k: with_traces(v, o, q, k) * (v @ o).norm(), "it must be 1: got 2"),
        (lambda v, o, q, k: with_traces(v, o, k, q), "is it the key side"),
        (lambda v, o, q, k: composed(divide=False)(v, o, q, k) / v.norm() / o.norm() / q.norm() / k.norm(),
            "all four matrices")],
    "4.6 circuit": [
        (factored(straight, moved, turn=True), "queries and keys are exchanged"),
        (factored(straight, lambda x, ov, q, k: x @ k), "the early head is missing"),
        (factored(lambda x, ov, q, k: x @ ov @ q, lambda x, ov, q, k: x @ k), "on the query side"),
        (factored(lambda x, ov, q, k: x @ ov @ q, moved), "on both sides"),
        (factored(lambda x, ov, q, k: x @ k, lambda x, ov, q, k: x @ ov @ q), "late_q and late_k are exchanged"),
        (factored(straight, lambda x, ov, q, k: (x + x @ ov) @ k), "own vector is added"),
        (lambda x, v, o, q, k: FactoredMatrix(q, (v @ o @ k).T), "the tokens are missing"),
        (lambda x, v, o, q, k: x @ q @ (x @ v @ o @ k).T, "a full matrix"),
        (multiplied_out, "multiplied out"),
        (lambda x, v, o, q, k: (x @ q, x @ v @ o @ k), "expected a FactoredMatrix")],
    "4.7 donors": [
        (lambda period: {p: p - period for p in range(period, 2 * period + 1)}, "BOS, position 0, is still a donor"),
        (lambda period: {p: p - period for p in range(period + 1, 2 * period)}, "is missing"),
        (lambda period: {p: p - period for p in range(period + 2, 2 * period + 1)}, "is missing"),
        (lambda period: {p: p - period for p in range(period + 1, 2 * period + 2)}, "does not exist"),
        (lambda period: {p: p - period + 1 for p in range(period + 1, 2 * period + 1)}, "stands another token"),
        (lambda period: {p - period: p for p in range(period + 1, 2 * period + 1)}, "of the first half is replaced"),
        (lambda period: list(range(period + 1, 2 * period + 1)), "expected a dictionary"),
        (lambda period: {}, "is missing")],
}
RIGHT = {
    "4.1 repeated_tokens": [from_a_list, with_multinomial],
    "4.2 log_probabilities": [with_cross_entropy, with_loops,
                              lambda logits, tokens: picked(logits.log_softmax(-1)[:, :-1], tokens[:, 1:])],
    "4.3 induction_score": [with_a_mask, diagonal(lambda s: 1 - s, 2), between(lambda s: s + 1)],
    "4.4 knock_out": [by_the_engine, with_a_mask_per_layer, hooked(lambda z, head: z[:, :, head].zero_())],
    "4.5 k_composition": [with_traces, with_factored, composed(lambda reads, writes: writes @ reads.T),
                          lambda v, o, q, k: composed()(v, o, q, k).item()],
    "4.6 circuit": [factored(straight, moved), step_by_step],
    "4.7 donors": [lambda period: dict(zip(range(period + 1, 2 * period + 1), range(1, period + 1))),
                   lambda period: {period + i + 1: i + 1 for i in range(period)},
                   lambda period: {p: p - period for p in torch.arange(period + 1, 2 * period + 1)}],
}

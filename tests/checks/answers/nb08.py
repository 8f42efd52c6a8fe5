"""Answers to the exercises of lesson 08, see the top of tests/checks/test_exercises.py."""
import random

import torch
from torch.nn.functional import cross_entropy

from utils.tasks import CausalModel
from utils.tasks.causal_models import hierarchical_equality

# ---------------------------------------------------------------- 8.1 and 8.8

same = lambda one, other: int(one == other)


def four(p="AB", q="CD", o=same, ask=same, objects=None):
    """A causal model of two pairs of objects, with one flaw at a time."""
    values = lambda number: {**dict.fromkeys("ABCD", range(objects or number)), **dict.fromkeys("PQO", (0, 1))}
    return lambda number: CausalModel("mine", values(number), {"P": p, "Q": q, "O": "PQ"}, {"P": ask, "Q": ask, "O": o})


def by_arithmetic(number):
    """With sums and products, truth values, and the variables in another order."""
    values = {"O": (1, 0), "Q": (False, True), "P": (0, 1), **dict.fromkeys("DCBA", range(number))}
    return CausalModel("arithmetic", values, {"O": ("Q", "P"), "P": ("B", "A"), "Q": ("C", "D")},
                       {"P": lambda b, a: 1 - min(1, abs(a - b)), "Q": lambda c, d: c == d,
                        "O": lambda q, p: p * q + (1 - p) * (1 - q)})


def abab_by_other_names(number):
    """P is the second pair, Q the first; "both" is a product."""
    return four("BD", "CA", lambda p, q: p * q)(number)


# ---------------------------------------------------------------- 8.2

def answer(runs="base", gives="source", where=None, keep=None):
    """Runs one input with a value of the other."""
    def exchanged(causal, base, source, variable):
        inputs = {"base": base, "source": source}
        value = causal.run(inputs[gives])[where or variable]
        return causal.run(inputs[runs], {where or variable: value})[keep or causal.output]
    return exchanged


def by_the_course(causal, base, source, variable):
    return causal.run_interchange(base, {variable: source})[causal.output]


# ---------------------------------------------------------------- 8.3

def with_coordinates(base, source, columns):
    """In a full rotation: turn both, exchange the first coordinates, turn back."""
    rest = torch.linalg.qr(torch.cat([columns.detach(), torch.eye(len(columns))], 1)).Q[:, columns.shape[1]:]
    rest = rest[:, :len(columns) - columns.shape[1]]
    return source @ columns @ columns.T + base @ rest @ rest.T


def swapped(base, source, columns):
    return base + (source - base) @ columns @ columns.T


# ---------------------------------------------------------------- 8.4

def gram_schmidt(weights):
    found = []
    for column in weights.T:
        for other in found:
            column = column - (column @ other) * other
        found.append(column / column.norm())
    return torch.stack(found, 1)


def with_svd(weights):
    parts = torch.linalg.svd(weights, full_matrices=False)
    return parts.U @ parts.Vh


def only_lengths(weights):
    return weights / weights.norm(dim=0)


# ---------------------------------------------------------------- 8.5

def searcher(swap=swapped, goal="labels", learn=True, returned=with_svd, sign=1, most=10_000):
    """The search with one flaw at a time."""
    def search(above, hidden, swaps, rank, steps=600, seed=0):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(hidden.shape[1], rank, generator=generator).requires_grad_()
        descent = torch.optim.Adam([weights], lr=0.03)
        for _ in range(min(steps, most)):
            rows = swaps[torch.randint(len(swaps), (256,), generator=generator)]
            new = swap(hidden[rows.base], hidden[rows.sources["P"]], with_svd(weights))
            loss = sign * cross_entropy(above(new), getattr(rows, goal))
            descent.zero_grad()
            loss.backward()
            if learn:
                descent.step()
        return returned(weights.detach())
    return search


def by_hand(above, hidden, swaps, rank, steps=600, seed=0):
    """Gradients by autograd.grad, plain steps back onto the sphere of orthonormal columns; batches in order."""
    columns = with_svd(torch.randn(hidden.shape[1], rank, generator=torch.Generator().manual_seed(seed)))
    for step in range(steps):
        rows = swaps[torch.arange(256 * step, 256 * (step + 1)) % len(swaps)]
        columns = columns.requires_grad_()
        log_probs = above(swapped(hidden[rows.base], hidden[rows.sources["P"]], columns)).log_softmax(-1)
        gradient, = torch.autograd.grad(-log_probs[torch.arange(256), rows.labels].mean(), columns)
        columns = with_svd((columns - 0.1 * gradient).detach())
    return columns


# ---------------------------------------------------------------- 8.6

def judge(goal="labels", swap=swapped, batches="all", form=lambda right: right):
    """The evaluation with one flaw at a time."""
    def right_swaps(above, hidden, swaps, columns, batch_size=250):
        right = []
        for start in range(0, len(swaps), batch_size):
            rows = swaps[start:start + batch_size]
            new = swap(hidden[rows.base], hidden[rows.sources["P"]], columns)
            right.append(above(new).argmax(-1) == getattr(rows, goal))
        return form({"all": torch.cat(right), "first": right[0], "last": right[-1]}[batches])
    return right_swaps


def one_by_one(above, hidden, swaps, columns, batch_size=250):
    """No batches at all: a Python loop over the swaps."""
    found = []
    for base, source, label in zip(swaps.base, swaps.sources["P"], swaps.labels):
        low, high = above(swapped(hidden[base], hidden[source], columns)[None])[0]
        found.append(bool((high > low) == bool(label)))
    return torch.tensor(found)


# ---------------------------------------------------------------- 8.7

def parts(replacement=False, shuffled=True, seeded=True, shared=False, fixed=False):
    """The parts with one flaw at a time."""
    def draw(inputs, sizes, seed):
        generator = torch.Generator().manual_seed(0 if fixed else seed) if seeded else None
        shuffle = lambda: torch.randperm(len(inputs), generator=generator) if shuffled else torch.arange(len(inputs))
        if replacement:
            return [inputs[torch.randint(len(inputs), (size,), generator=generator)] for size in sizes]
        if shared:
            return [inputs[shuffle()[:size]] for size in sizes]
        return [inputs[rows] for rows in shuffle()[:sum(sizes)].split(sizes)]
    return draw


def with_python(inputs, sizes, seed):
    chosen = random.Random(seed).sample(inputs.tolist(), sum(sizes))
    return tuple(torch.tensor([chosen.pop() for _ in range(size)]) for size in sizes)


WRONG = {
    "8.1 equality_model": [
        (four(o=lambda p, q: int(p and q)), "O is 'P and Q'"),
        (four(o=lambda p, q: int(p or q)), "O is 'P or Q'"),
        (four(o=lambda p, q: int(p != q)), "O is 1 if P and Q differ"),
        (four(p="AC", q="BD"), "P compares A and C"),
        (four(q="BD"), "Q compares B and D"),
        (four(ask=lambda one, other: int(one != other)), "P is 1 if A and B differ"),
        (four(objects=4), "`objects` is not used"),
        (lambda number: {"P": "AB"}, "return the CausalModel"),
    ],
    "8.2 counterfactual_answer": [
        (answer("source", "base"), "the base runs, and one value comes from the source"),
        (answer(gives="base"), "That is the answer on the base"),
        (answer(runs="source"), "That is the answer on the source"),
        (answer(keep="P"), "That is the value of the variable"),
        (answer(where="P"), "The variable is always P"),
        (lambda causal, base, source, variable: causal.run_interchange(base, {variable: source}), "not all variables"),
    ],
    "8.3 swap_inside": [
        (lambda base, source, columns: swapped(source, base, columns), "The wrong way round"),
        (lambda base, source, columns: base + 0 * columns.sum(), "Nothing changed"),
        (lambda base, source, columns: source + 0 * columns.sum(), "That is the source as a whole"),
        (lambda base, source, columns: source @ columns @ columns.T, "The rest of the base is lost"),
        (lambda base, source, columns: base + source @ columns @ columns.T, "the base's own part is still there"),
        (lambda base, source, columns: torch.cat([source[:, :3], base[:, 3:]], 1), "the first neurons, not directions"),
        (lambda base, source, columns: swapped(base, source, columns.detach()), "No gradient reaches the columns"),
        (lambda base, source, columns: (source - base) @ columns, "the result has shape"),
    ],
    "8.4 orthonormal_columns": [
        (only_lengths, "they are not at right angles"),
        (lambda weights: weights, "do not have length 1"),
        (lambda weights: torch.linalg.qr(weights).Q.detach(), "No gradient reaches the weights"),
        (lambda weights: with_svd(weights * 0 + torch.eye(*weights.shape)), "do not span what the weights span"),
        (lambda weights: torch.linalg.qr(weights, mode="complete").Q, "the result has shape"),
        (lambda weights: torch.linalg.qr(weights).R, "the result has shape"),
    ],
    "8.5 search": [
        (searcher(swap=lambda base, source, columns: swapped(source, base, columns)), "the place of Q instead of P"),
        (searcher(goal="base_labels"), "were the base_labels the goal"),
        (searcher(learn=False), "did not move from where they began"),
        (searcher(returned=lambda weights: weights), "the columns you return are not orthonormal"),
        (searcher(sign=-1), "or did the loss rise"),
        (searcher(most=3), "does not do what the labels say"),
    ],
    "8.6 right_swaps": [
        (judge(goal="base_labels"), "compared with the base's labels"),
        (judge(batches="first"), "is the `return` inside the loop"),
        (judge(batches="last"), "Only the last batch was judged"),
        (judge(swap=lambda base, source, columns: base), "Nothing was swapped"),
        (judge(swap=lambda base, source, columns: source), "The whole activation was taken"),
        (judge(swap=lambda base, source, columns: swapped(source, base, columns)), "Base and source are exchanged"),
        (judge(form=lambda right: right.float().mean()), "not their mean"),
        (judge(form=lambda right: right.float()), "expected True or False"),
    ],
    "8.7 draw_parts": [
        (parts(replacement=True), "are in more than one part"),
        (parts(shared=True), "are in more than one part"),
        (parts(shuffled=False), "shuffle them first"),
        (parts(seeded=False), "a generator that starts from `seed`"),
        (parts(fixed=True), "Every seed gives the same parts"),
        (lambda inputs, sizes, seed: parts()(inputs, sizes[:2], seed), "three parts, one for each size"),
    ],
    "8.8 abab_model": [
        (four("AC", "CD", lambda p, q: p * q), "and that is ABAA"),
        (four("AB", "CD", lambda p, q: p * q), "that is the pattern AABB"),
        (four("AD", "BC", lambda p, q: p * q), "that is the pattern ABBA"),
        (four("AC", "BD"), "four different objects must be False"),
        (four("AC", "BD", lambda p, q: int(p or q)), "both pairs must be equal"),
    ],
}
RIGHT = {
    "8.1 equality_model": [by_arithmetic, four(), lambda number: hierarchical_equality(number)],
    "8.2 counterfactual_answer": [answer(), by_the_course],
    "8.3 swap_inside": [swapped, with_coordinates],
    "8.4 orthonormal_columns": [gram_schmidt, with_svd],
    "8.5 search": [searcher(), by_hand],
    "8.6 right_swaps": [judge(), one_by_one],
    "8.7 draw_parts": [with_python, parts()],
    "8.8 abab_model": [four("AC", "BD", lambda p, q: p * q), abab_by_other_names],
}

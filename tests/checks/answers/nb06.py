"""Answers to the exercises of lesson 06, see the top of tests/checks/test_exercises.py."""
import itertools
import random

import torch
from torch.nn import functional as F

from utils.engine import Do, Site, at_end, run

# ---------------------------------------------------------------- 6.1


def masker(draw="columns", keep=False, seeded=True, bernoulli=False, scale=1.0, same=False, in_place=False):
    """The mask over neurons with one flaw at a time."""
    def mask(hidden, share, seed):
        generator = torch.Generator().manual_seed(0 if same else seed) if seeded else None
        shape = {"columns": hidden.shape[-1:], "positions": hidden.shape[1:], "elements": hidden.shape}[draw]
        places = torch.rand(shape, generator=generator)
        speaks = places > share if bernoulli else places.argsort(-1).argsort(-1) >= round(share * hidden.shape[-1])
        if in_place:
            hidden *= speaks
            return hidden
        return hidden * (~speaks if keep else speaks) * scale
    return mask


def with_python(hidden, share, seed):
    """Drawn with Python's random numbers, written as a matrix."""
    neurons = hidden.shape[-1]
    silent = random.Random(seed).sample(range(neurons), round(share * neurons))
    return hidden @ torch.diag(torch.tensor([float(n not in silent) for n in range(neurons)]))


# ---------------------------------------------------------------- 6.2

def keeper(first=0, rest="spread", count="mask", inverted=False, scale=1):
    """Groups with one flaw at a time."""
    def keep(hidden, number, kept):
        neurons = hidden.shape[-1]
        small = neurons // number
        ids = torch.full((neurons,), -1)
        if rest == "spread":
            ids = torch.arange(neurons) * number // neurons
        elif rest == "last":
            ids = (torch.arange(neurons) // small).clamp(max=number - 1)
        elif rest == "stripes":
            ids = torch.arange(neurons) % number
        else:
            ids[:small * number] = torch.arange(small * number) // small
        mask = torch.isin(ids + first, torch.tensor(kept, dtype=torch.long)) ^ inverted
        masked = hidden * mask * scale
        return masked, {"mask": int(mask.sum()), "values": masked.sum().item(), "all": int((masked != 0).sum())}[count]
    return keep


def with_array_split(hidden, number, kept):
    """The larger groups first, as a loop over slices."""
    masked, active = torch.zeros_like(hidden), 0
    for g, part in enumerate(torch.arange(hidden.shape[-1]).tensor_split(number)):
        if g in kept:
            masked[..., part] = hidden[..., part]
            active += len(part)
    return masked, torch.tensor(active)


# ---------------------------------------------------------------- 6.3

def losses(kind="mlp_post", shift=0, inverted=False, reduction="mean", sign=1, written=True, padding=False):
    def measure(model, prompts, answers, layer, ids, kept):
        found = []
        for row in kept:
            chosen = row if inverted else ~row
            units = chosen[ids][:4 * 160 if kind == "mlp_post" else 160].nonzero().flatten().tolist()
            plan = [Do(Site(kind, layer + shift, units=units), 0.0)] if units and written else []
            logits = run(model, prompts, plan)[:, -1] if padding else at_end(model, prompts, plan)
            found.append(sign * F.cross_entropy(logits, answers, reduction=reduction))
        return torch.stack(found)
    return measure


def logits_masked(model, prompts, answers, layer, ids, kept):
    logits = at_end(model, prompts)
    words = torch.arange(logits.shape[-1]) * kept.shape[1] // logits.shape[-1]
    return torch.stack([F.cross_entropy(logits * row[words], answers) for row in kept])


def with_hooks(model, prompts, answers, layer, ids, kept):
    """With a hook of PyTorch in front of the MLP's second matrix, and the loss written out."""
    found, places = [], torch.arange(len(answers))
    matrix = model.original_model.transformer.h[layer].mlp.c_proj.original_component
    for row in kept:
        handle = matrix.register_forward_pre_hook(lambda module, inputs: (inputs[0] * row[ids],))
        end = model(prompts.tokens, attention_mask=prompts.mask)[places, prompts.ends].log_softmax(-1)
        handle.remove()
        found.append(-end[places, answers].mean())
    return torch.stack(found)


# ---------------------------------------------------------------- 6.4

def of_means(kept, losses):
    """With one matrix product for each mean."""
    some = kept.to(losses.dtype)
    return (1 - some).T @ losses / (1 - some).sum(0) - some.T @ losses / some.sum(0)


def sum_of_inverse(kept, losses):
    return (kept / losses[:, None]).sum(0)


# ---------------------------------------------------------------- 6.5

def recursive(outcome, order):
    if not order:
        return []
    found = dict(zip(order[:-1], (None,) * len(order)))
    values = [outcome(set(order[:i])) for i in range(len(order) + 1)]
    found = {group: b - a for group, (a, b) in zip(order, itertools.pairwise(values))}
    return torch.tensor([found[group] for group in range(len(order))])


def by_place(outcome, order):
    values = [outcome(set(order[:i])) for i in range(len(order) + 1)]
    return torch.tensor(values).diff()


def filled(value):
    """An order's gains from `value(outcome, order, group)`."""
    return lambda outcome, order: torch.tensor([float(value(outcome, order, g)) for g in range(len(order))])


# ---------------------------------------------------------------- 6.6

def project(z, w_o, b_o):
    return torch.einsum("phd,hdw->pw", z, w_o) + b_o


def after(z, w_o, b_o, dropped):
    slices = project(z, w_o, b_o).unflatten(-1, (z.shape[1], -1)).clone()
    slices[:, dropped] = 0
    return slices.flatten(1)


def only_these(z, w_o, b_o, dropped):
    return project(z * torch.tensor([float(h in dropped) for h in range(z.shape[1])])[:, None], w_o, b_o)


def sum_of_heads(z, w_o, b_o, dropped):
    """Adds up the heads that are left, one matrix at a time."""
    return b_o + sum((z[:, h] @ w_o[h] for h in range(z.shape[1]) if h not in dropped), torch.zeros(len(z), w_o.shape[-1]))


def in_place(z, w_o, b_o, dropped):
    z[:, dropped] = 0
    return project(z, w_o, b_o)


def no_bias(z, w_o, b_o, dropped):
    return sum_of_heads(z, w_o, b_o, dropped) - b_o


# ---------------------------------------------------------------- 6.7

def zeroed(pattern, keys):
    return pattern * torch.tensor([float(k not in keys) for k in range(pattern.shape[1])])


def with_nan_to_num(pattern, keys):
    left = zeroed(pattern, keys)
    return (left / left.sum(1)[:, None]).nan_to_num(0)


def with_matrices(pattern, keys):
    """The hidden weight of each query, handed to the others in proportion."""
    left, hidden = zeroed(pattern, keys), pattern[:, keys].sum(1, keepdim=True)
    return torch.where(hidden < 1 - 1e-6, left / (1 - hidden).clamp(min=1e-6), torch.zeros_like(left))


def softmax_again(pattern, keys):
    return zeroed(pattern, keys).softmax(-1)


def columns(pattern, keys):
    left = zeroed(pattern, keys)
    return left / left.sum(0).clamp(min=1e-9)


# ---------------------------------------------------------------- 6.8

cost = lambda outcome, everything, *groups: outcome(everything) - outcome(everything - set(groups))


def as_costs(outcome, everything, a, b):
    """The single costs minus the cost of both."""
    return cost(outcome, everything, a) + cost(outcome, everything, b) - cost(outcome, everything, a, b)


def among(outcome, everything, a, b):
    return outcome({a, b}) - outcome({a}) - outcome({b}) + outcome(set())


WRONG = {
    "6.1 mask_neurons": [
        (masker("elements", seeded=False, bernoulli=True), "at other positions or in other prompts"),
        (masker("positions"), "at other positions or in other prompts"),
        (masker(keep=True), "the share that is silenced"),
        (masker(bernoulli=True), "expected exactly"),
        (masker(scale=1 / 0.7), "scales nothing up"),
        (masker(seeded=False), "a generator that starts from `seed`"),
        (masker(same=True), "Every seed silences the same neurons"),
        (masker(in_place=True), "changed its argument `hidden`"),
    ],
    "6.2 keep_groups": [
        (keeper(first=1, rest="none", count="values"), "is the sum of their values"),
        (keeper(first=1), "do your ids run from 1"),
        (keeper(rest="none"), "or is something left over"),
        (keeper(rest="last"), "may differ by one at most"),
        (keeper(rest="stripes"), "neighbours in order"),
        (keeper(count="values"), "is the sum of their values"),
        (keeper(count="all"), "count neurons"),
        (keeper(scale=2), "must stay as it was"),
        (keeper(inverted=True), "some neurons are in two groups"),
        (lambda hidden, number, kept: keeper()(hidden, number, kept)[0], "return two things"),
    ],
    "6.3 masked_losses": [
        (logits_masked, "You masked the logits"),
        (losses(inverted=True), "the groups that should be kept"),
        (losses(shift=-1), "another layer"),
        (losses(kind="mlp_out"), "the site is called mlp_post"),
        (losses(reduction="sum"), "not the mean"),
        (losses(sign=-1), "The sign is wrong"),
        (losses(written=False), "No mask changes anything"),
        (losses(padding=True), "shorter prompts are padded"),
    ],
    "6.4 difference_of_means": [
        (sum_of_inverse, "still a sum of 1 / loss"),
        (lambda kept, losses: sum_of_inverse(kept, losses + 1e-9), "still a sum of 1 / loss"),
        (lambda kept, losses: F.normalize(sum_of_inverse(kept, losses + 1e-9), p=1, dim=0), "1 / loss, scaled"),
        (lambda kept, losses: -of_means(kept, losses), "The sign is wrong"),
        (lambda kept, losses: (losses[:, None] * (1 - 2 * kept.float())).sum(0), "take means"),
        (lambda kept, losses: (losses[:, None] * (1 - 2 * kept.float())).mean(0), "divided by the number of all masks"),
        (lambda kept, losses: torch.stack([losses[c].mean() for c in kept.T]), "only half of it"),
        (lambda kept, losses: losses.mean() - torch.stack([losses[c].mean() for c in kept.T]), "the mean of all masks"),
    ],
    "6.5 gains": [
        (by_place, "in the order of joining"),
        (filled(lambda f, order, g: f({g}) - f(set())), "with the empty model"),
        (filled(lambda f, order, g: f(set(order)) - f(set(order) - {g})), "when it alone is dropped"),
        (filled(lambda f, order, g: f(set(order[:order.index(g) + 1]))), "These are the outcomes"),
        (lambda f, order: recursive(f, order[::-1]), "they join an empty one"),
        (lambda f, order: recursive(f, sorted(order)), "use `order`"),
        (filled(lambda f, order, g: f(g)), "takes a set of groups"),
    ],
    "6.6 attention_without": [
        (after, "a slice of the output is no head"),
        (only_these, "You kept the heads that should be dropped"),
        (no_bias, "The bias is gone"),
        (in_place, "changed its argument `z`"),
        (lambda z, w_o, b_o, dropped: project(z, w_o, b_o), "No head was dropped"),
    ],
    "6.7 hide_keys": [
        (zeroed, "no longer add up to 1"),
        (softmax_again, "divide by the sum"),
        (columns, "You normalised the columns"),
        (lambda pattern, keys: pattern, "Nothing was hidden"),
        (lambda pattern, keys: zeroed(pattern, keys) / zeroed(pattern, keys).sum(1, keepdim=True), "the result contains NaN"),
    ],
    "6.8 interaction": [
        (lambda f, all_, a, b: cost(f, all_, a) + cost(f, all_, b), "the sum of the two single costs"),
        (lambda f, all_, a, b: -as_costs(f, all_, a, b), "The sign is wrong"),
        (lambda f, all_, a, b: cost(f, all_, a, b), "the cost of dropping both"),
        (among, "next to nobody"),
    ],
}
RIGHT = {
    "6.1 mask_neurons": [with_python, masker()],
    "6.2 keep_groups": [with_array_split, keeper()],
    "6.3 masked_losses": [with_hooks],
    "6.4 difference_of_means": [of_means],
    "6.5 gains": [recursive, lambda f, order: recursive(f, order).tolist()],
    "6.6 attention_without": [sum_of_heads],
    "6.7 hide_keys": [with_nan_to_num, with_matrices],
    "6.8 interaction": [as_costs, lambda f, all_, a, b: torch.tensor(as_costs(f, all_, a, b))],
}

"""Checks of notebook 06: masks over neurons, groups and heads, importance, orders, attention weights, interactions."""
from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine import Do, Site, at_end
from ..models import load_model, padded
from . import call, close, exercise, require, tensor_like
from .references.nb06 import gains, masked_losses


# ---------------------------------------------------------------- what the checks run on

def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=1)
def _model():
    """The shipped architecture with random weights, large enough that every neuron is felt."""
    model, generator = load_model("course-gpt2", device="cpu"), torch.Generator().manual_seed(0)
    for weights in model.parameters():
        weights.normal_(0, 0.2, generator=generator)
    model(torch.zeros(1, 1, dtype=torch.long))        # a first run lets the bridge put its own hooks on
    return model


@lru_cache(maxsize=1)
def _prompts():
    ids = torch.randint(1, 500, (3, 7), generator=torch.Generator().manual_seed(1)).tolist()
    return padded(_model(), [ids[0], ids[1][:5], ids[2][:6]])


class _Backup:
    """An outcome over four groups: 1, 2 and 4 for groups 0, 1 and 2; next to 2, groups 0 and 3 do the same thing, worth 8.

    Groups 1 and 2 together lose 3.
    """

    def __init__(self):
        self.asked = []

    def __call__(self, kept) -> float:
        require(not isinstance(kept, int), "the outcome takes a set of groups, not one group.")
        self.asked.append(frozenset(kept))
        return 10 + sum(2.0 ** g for g in kept if g < 3) + 8.0 * bool(2 in kept and {0, 3} & set(kept)) - 3.0 * ({1, 2} <= set(kept))


# ---------------------------------------------------------------- checks

@exercise("6.1 mask_neurons", difficulty=1, minutes=3)
def _(attempt):
    hidden, found = _random(3, 4, 20) + 5, {}
    for seed in (0, 1, 2, 3):
        result = tensor_like(call(attempt, hidden, 0.3, seed), shape={"prompt": 3, "position": 4, "neuron": 20})
        silent = result == 0
        require(bool((silent == silent[:1, :1]).all()), "Other neurons are silent at other positions or in other prompts: "
                "draw the neurons once, one number for each, and use them everywhere.")
        count = int(silent[0, 0].sum())
        require(count != 14, "14 of 20 neurons are silent and 6 speak: `share` is the share that is silenced.")
        require(count == 6, f"{count} of 20 neurons are silent with share 0.3, expected exactly round(0.3 * 20) = 6.")
        close(result, hidden * ~silent, message="The neurons that go on speaking were changed: a mask is no dropout, it scales "
              "nothing up.")
        found[seed] = silent[0, 0]
    again = tensor_like(call(attempt, hidden, 0.3, 0))[0, 0] == 0
    require(bool((again == found[0]).all()), "The same seed gives other neurons the second time: use a generator that starts "
            "from `seed`.")
    require(any(not bool((found[0] == other).all()) for other in found.values()), "Every seed silences the same neurons: draw "
            "them with `seed`.")


@exercise("6.2 keep_groups", difficulty=2, minutes=5)
def _(attempt):
    hidden = _random(2, 3, 20)
    for neurons, number in ((20, 6), (12, 4), (7, 7)):
        part = hidden[..., :neurons]
        sets = [_kept(call(attempt, part, number, [g]), part, f"group {g} of {number}") for g in range(number)]
        owners = torch.stack(sets).sum(0)
        require(bool(sets[0].any()), "keeping group 0 keeps nothing: do your ids run from 1?")
        require(bool((owners <= 1).all()), "some neurons are in two groups.")
        require(bool((owners == 1).all()), f"{int((owners == 0).sum())} of {neurons} neurons belong to none of the groups 0 to "
                f"{number - 1}: do your ids run from 1, or is something left over?")
        order = torch.stack(sets).int().argmax(0)
        require(bool((order.diff() >= 0).all()), "groups are neighbours in order: group 0 holds the first neurons. Do your ids "
                "start at 1, with the rest at 0?")
        sizes = torch.stack(sets).sum(1)
        require(int(sizes.max() - sizes.min()) <= 1, f"the groups of {neurons} neurons have sizes {sizes.tolist()}: they may differ "
                "by one at most.")
    require(bool(_kept(call(attempt, hidden, 6, list(range(6))), hidden, "all groups").all()), "keeping all groups must change nothing.")
    require(not bool(_kept(call(attempt, hidden, 6, []), hidden, "no group").any()), "keeping no group must leave nothing.")
    both = _kept(call(attempt, hidden, 6, [0, 5]), hidden, "groups 0 and 5")
    require(bool(both[0]) and bool(both[-1]) and not bool(both[10]), "keeping groups 0 and 5 of 6 must keep the first and the last "
            "neurons, and not those between.")


def _kept(result, hidden: Tensor, what: str) -> Tensor:
    """Which neurons a result keeps, [neuron]; `active` must be their number."""
    require(isinstance(result, tuple) and len(result) == 2, "return two things: the masked activations, and how many neurons are kept.")
    masked, active = result
    masked = tensor_like(masked, shape=list(hidden.shape))
    speaks = (masked != 0).flatten(0, -2).any(0)
    close(masked, hidden * speaks, message=f"{what}: what is kept must stay as it was, at every position of every prompt.")
    active, count, total = float(active), int(speaks.sum()), float(masked.sum())
    require(count == active or abs(active - total) > 1e-3, f"{what}: {active:.2f} is the sum of their values, not the number of neurons kept.")
    require(active != masked.numel() // hidden.shape[-1] * count or active == count, f"{what}: you counted every neuron once "
            "for each position of each prompt; count neurons.")
    require(active == count, f"{what}: {count} neurons are kept, and you say {active:g}.")
    return speaks


@exercise("6.3 masked_losses", difficulty=3, minutes=6)
def _(attempt):
    model, prompts, layer, groups = _model(), _prompts(), 5, 4
    answers, width = torch.tensor([7, 130, 255]), 4 * model.cfg.d_model
    ids = torch.randperm(width, generator=torch.Generator().manual_seed(2)) % groups
    kept = torch.tensor([[True] * 4, [True, False, True, False], [False, True, True, True], [False] * 4])
    result = call(attempt, model, prompts, answers, layer, ids, kept)
    result = tensor_like(result, shape={"mask": 4})
    right = masked_losses(model, prompts, answers, layer, ids, kept)
    logits = at_end(model, prompts)
    places = torch.arange(logits.shape[-1])

    def behind(of):
        return torch.stack([F.cross_entropy(logits * row[of], answers) for row in kept])

    close(result, right, wrong={
        "You masked the logits: the model had already finished. Silence neurons inside, with Do and Site.": behind(places * groups // len(places)),
        "You masked the logits: `ids` names neurons, not words.": behind(ids[places % width]),
        "You silenced the groups that should be kept.": masked_losses(model, prompts, answers, layer, ids, ~kept),
        "That is the loss with another layer masked: off by one?": masked_losses(model, prompts, answers, layer - 1, ids, kept),
        "You took the output of the MLP or the stream for its neurons: the site is called mlp_post.": _columns(model, prompts, answers, layer, ids, kept),
        "The sum over prompts was returned, not the mean.": right * 3,
        "The sign is wrong: a loss is minus the log-probability.": -right,
        "No mask changes anything: give the interventions to at_end.": right[:1].expand(4),
        "Only the last column was read: shorter prompts are padded, so read with at_end.": _last_column(model, prompts, answers, layer, ids, kept)})


def _columns(model, prompts, answers, layer, ids, kept):
    """The mistake of masking columns of the MLP's output."""
    width, found = model.cfg.d_model, []
    for row in kept:
        dropped = (~row[ids[:width]]).nonzero().flatten().tolist()
        found.append(F.cross_entropy(at_end(model, prompts, [Do(Site("mlp_out", layer, units=dropped), 0.0)] if dropped else []), answers))
    return torch.stack(found)


def _last_column(model, prompts, answers, layer, ids, kept):
    """The mistake of reading padding."""
    from ..engine import run

    found = []
    for row in kept:
        dropped = (~row[ids]).nonzero().flatten().tolist()
        plan = [Do(Site("mlp_post", layer, units=dropped), 0.0)] if dropped else []
        found.append(F.cross_entropy(run(model, prompts, plan)[:, -1], answers))
    return torch.stack(found)


@exercise("6.4 difference_of_means", difficulty=2, minutes=4)
def _(attempt):
    kept = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 1]]).bool()
    losses = torch.tensor([1.0, 2.0, 4.0, 6.0, 0.0])
    # by hand: kept at (1 + 2 + 0) / 3, dropped at (4 + 6) / 2, and so on
    right = torch.tensor([5 - 1, (2 + 6) / 2 - 5 / 3, (1 + 2) / 2 - 10 / 3])
    result = tensor_like(call(attempt, kept, losses), shape={"group": 3})
    some = kept.double()
    sums = ((1 - some) * losses[:, None]).sum(0) - (some * losses[:, None]).sum(0)
    naive = (some / (losses[:, None] + 1e-9)).sum(0)
    require(float(result.abs().nan_to_num(1e9).max()) < 1e6, "a loss of 0 makes it explode: that is still a sum of 1 / loss.")
    close(result, right, wrong={
        "The sign is wrong: a group that lowers the loss when it is kept should come out above 0.": -right,
        "You subtracted sums, so a group that was drawn more often comes out lower: take means.": sums,
        "You divided by the number of all masks; divide by the number of masks that keep (or drop) the group.": sums / len(losses),
        "That is still the sum of 1 / loss, scaled.": naive / naive.sum(),
        "You compared with the mean of all masks, not with those that drop the group.": losses.mean() - torch.stack([losses[c].mean() for c in kept.T]),
        "The mean loss of the masks that keep a group is only half of it: compare with those that drop it.": torch.stack([losses[c].mean() for c in kept.T])})


@exercise("6.5 gains", difficulty=3, minutes=5)
def _(attempt):
    outcome, order = _Backup(), [1, 2, 3, 0]
    result = call(attempt, outcome, order)
    result = tensor_like(torch.as_tensor(result, dtype=torch.float) if isinstance(result, (list, tuple)) else result, shape={"group": 4})
    # by hand: 1 adds 2; 2 adds 4 and loses 3; 3 adds the 8; 0 finds that done and adds 1
    right = torch.tensor([1.0, 2.0, 1.0, 8.0])
    close(result, right, wrong={
        "These are the right numbers in the order of joining: store each under the number of its group.": right[order],
        "You compared each group with the empty model, not with those that had joined before.": torch.tensor([1.0, 2.0, 4.0, 0.0]),
        "You dropped the groups from the whole model one after the other: they join an empty one.": gains(_Backup(), order[::-1]),
        "That is what each costs when it alone is dropped.": torch.tensor([1.0, -1.0, 9.0, 0.0]),
        "These are the outcomes on the way: store how far each is above the one before.": torch.tensor([22.0, 12.0, 13.0, 21.0]),
        "You started from 0 instead of the outcome of the empty model.": torch.tensor([1.0, 12.0, 1.0, 8.0]),
        "You left the groups in the order of their numbers: use `order`.": gains(_Backup(), [0, 1, 2, 3])})


@exercise("6.6 attention_without", difficulty=2, minutes=4)
def _(attempt):
    z, w_o, b_o = _random(5, 4, 3), _random(4, 3, 12, seed=1), _random(12, seed=2)
    result = tensor_like(call(attempt, z, w_o, b_o, [1, 3]), shape={"position": 5, "width": 12})
    each = torch.einsum("phd,hdw->phw", z, w_o)
    slices = (each.sum(1) + b_o).unflatten(-1, (4, 3)).clone()
    slices[:, [1, 3]] = 0
    right = each[:, [0, 2]].sum(1) + b_o
    close(result, right, wrong={
        "That is the mask after the projection: a slice of the output is no head.": slices.flatten(1),
        "The bias is gone: it belongs to no head, and stays.": right - b_o,
        "You kept the heads that should be dropped, and dropped the others.": each[:, [1, 3]].sum(1) + b_o,
        "No head was dropped.": each.sum(1) + b_o,
        "You dropped positions: the heads are the second axis of z.": torch.einsum("phd,hdw->pw", z * torch.tensor([1, 0, 1, 0, 1.])[:, None, None], w_o) + b_o})
    close(call(attempt, z, w_o, b_o, []), each.sum(1) + b_o, message="With no head to drop the output must be the plain one.")
    close(call(attempt, z, w_o, b_o, [0, 1, 2, 3]), b_o.expand(5, 12), message="With all heads dropped only the bias is left.")


@exercise("6.7 hide_keys", difficulty=2, minutes=3)
def _(attempt):
    scores = _random(4, 4).masked_fill(~torch.ones(4, 4).tril().bool(), -torch.inf)
    pattern = scores.softmax(-1)
    result = tensor_like(call(attempt, pattern, [1]), shape={"query": 4, "key": 4})
    zeroed = pattern.clone()
    zeroed[:, 1] = 0
    rows = pattern.clone()
    rows[1] = 0
    right = scores.masked_fill(torch.arange(4) == 1, -torch.inf).softmax(-1)      # what a softmax without this key gives
    close(result, right, wrong={
        "The rows no longer add up to 1: divide each by what is left of it.": zeroed, "Nothing was hidden.": pattern,
        "You hid a query, that is a row: keys are the columns.": rows,
        "A softmax over the weights spreads them over keys that may not be seen: divide by the sum.": zeroed.softmax(-1),
        "You normalised the columns: the weights of one query, a row, add up to 1.": zeroed / zeroed.sum(0, keepdim=True).clamp(min=1e-9)})
    first = call(attempt, pattern, [0])
    require(not bool(tensor_like(first, shape={"query": 4, "key": 4}, dtype=None)[0].any()), "The first token sees only key 0: with that hidden "
            "its row must be all zero.")
    close(call(attempt, pattern, [0, 2])[3], scores[3, [1, 3]].softmax(-1) @ torch.eye(4)[[1, 3]], message="With keys 0 and 2 hidden "
          "the last query must share its weight between keys 1 and 3 as a softmax over these two would.")


@exercise("6.8 interaction", difficulty=2, minutes=4)
def _(attempt):
    everything = {0, 1, 2, 3}

    def result(a, b):
        return float(tensor_like(call(attempt, _Backup(), everything, a, b), shape=()))

    # by hand: 0 and 3 alone cost 1 and 0, together 9; 1 and 2 alone cost -1 and 9, together 11
    close(result(0, 3), -8.0, wrong={
        "The sign is wrong: groups that back each other up should come out below 0.": 8.0,
        "That is the sum of the two single costs: what happens when both are dropped?": 1.0,
        "That is the cost of dropping both: subtract what each costs alone.": 9.0,
        "You measured the two next to nobody: keep all other groups.": 0.0})
    close(result(1, 2), -3.0, wrong={"The sign is wrong: groups that get in each other's way cost less when both are dropped.": 3.0,
                                     "That is the sum of the two single costs: what happens when both are dropped?": 8.0})
    close(result(1, 3), 0.0, message="Two groups that have nothing to do with each other must come out at 0.")

"""Checks of notebook 03: the logit difference, patching one vector or one head, its share of the effect, one path."""
from __future__ import annotations

from functools import lru_cache

import torch

from .. import metrics
from ..engine import Do, Site, run
from ..models import load_model
from . import call, close, exercise, require, tensor_like


# ---------------------------------------------------------------- what the checks run on

POSITIONS, CHANGED = 7, 3


@lru_cache(maxsize=1)
def _model():
    """The shipped architecture with random weights, large enough that every mistake changes the numbers."""
    model, generator = load_model("course-gpt2", device="cpu"), torch.Generator().manual_seed(0)
    for weights in model.parameters():
        weights.normal_(0, 0.15, generator=generator)
    model(torch.zeros(1, 1, dtype=torch.long))        # a first run lets the bridge put its own hooks on
    return model


@lru_cache(maxsize=1)
def _pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and corrupted tokens [2, position] that differ at position `CHANGED` alone."""
    clean = torch.randint(1, 500, (2, POSITIONS), generator=torch.Generator().manual_seed(1))
    corrupted = clean.clone()
    corrupted[:, CHANGED] = clean[:, CHANGED] + 7
    return clean, corrupted


@lru_cache(maxsize=1)
def _caches():
    """Activations of the clean and of the corrupted run, by TransformerLens."""
    return tuple(_model().run_with_cache(tokens)[1] for tokens in _pair())


def _written(base: torch.Tensor, source, kind: str, layer: int, position=None, head=None) -> torch.Tensor:
    """Logits of `base` with an activation of the cache `source` written by the engine, not by hooks."""
    name = f"blocks.{layer}." + ("attn.hook_z" if kind == "z" else f"hook_{kind}")
    value = source[name] if head is None else source[name][:, :, head]
    value = value.flatten(2)
    value = value if position is None else value[:, position]
    return run(_model(), base, [Do(Site(kind, layer, position, head), value)])


def _like_logits(result) -> torch.Tensor:
    return tensor_like(result, shape={"prompt": 2, "position": POSITIONS, "vocab": _model().cfg.d_vocab})


# ---------------------------------------------------------------- exercises

@exercise("3.1 logit_difference", difficulty=1, minutes=3)
def _(attempt):
    logits = torch.tensor([[4.0, 1.0, 0.5, 2.0], [0.0, 3.0, 7.0, 1.0], [1.0, 5.0, 2.0, 2.5]])
    correct, wrong = torch.tensor([0, 2, 3]), torch.tensor([1, 0, 1])
    found = tensor_like(call(attempt, logits, correct, wrong))
    require(found.shape != (3, 3), "logits[:, correct] takes every id from every prompt: pair row 0 with id 0, "
                                   "row 1 with id 1, ...")
    close(tensor_like(found), [3.0, 7.0, -2.5], wrong={
        "the sign is flipped: right minus wrong.": [-3.0, -7.0, 2.5],
        "only the first prompt was read: one number for every prompt is asked for.": 3.0,
        "you averaged over the prompts: one number for every prompt is asked for.": 2.5,
        "every row was taken from the first prompt: pair row 0 with id 0, row 1 with id 1, ...": [3.0, -3.5, 1.0],
        "that is the logit of the right token alone: subtract that of the wrong one.": [4.0, 7.0, 2.5],
        "these are probabilities: take the logits as they are.":
            metrics.logit_difference(logits.softmax(-1), correct, wrong)})


@exercise("3.2 patch_residual", difficulty=2, minutes=6)
def _(attempt):
    (_, corrupted), (cache, _) = _pair(), _caches()

    def patch(layer, position):
        return _written(corrupted, cache, "resid_pre", layer, position)

    for layer, position in ((2, CHANGED + 1), (2, CHANGED), (2, POSITIONS - 1)):
        found = _like_logits(call(attempt, _model(), corrupted, cache, layer, position))
        right, nothing = patch(layer, position), run(_model(), corrupted)
        wrong = {
            "you replaced the whole stream, at every position: assign to resid[:, position] only.":
                _written(corrupted, cache, "resid_pre", layer),
            "nothing changed: does the hook return the tensor, and is the vector taken from the clean run?": nothing,
            "only the first prompt was patched: assign to resid[:, position].": torch.cat([right[:1], nothing[1:]]),
            "off by one layer: hook_resid_pre of block `layer` is the stream entering it.": patch(layer - 1, position),
            "off by one layer: the stream *entering* block `layer` is meant.": patch(layer + 1, position)}
        if position + 1 < POSITIONS:
            wrong["off by one position: the next one was patched."] = patch(layer, position + 1)
            wrong["the last position was patched, whatever `position` says."] = patch(layer, -1)
        if position > CHANGED:
            wrong["off by one position: the one before was patched."] = patch(layer, position - 1)
        close(found, right, message="these are not the logits of a run with this one vector replaced.", wrong=wrong)


@exercise("3.3 recovery", difficulty=2, minutes=4)
def _(attempt):
    corrupted = torch.tensor([-4.0, -2.0, 0.0, -2.0])
    clean = torch.tensor([4.0, 6.0, 0.5, 3.5])           # the third prompt has a tiny total effect
    patched = torch.tensor([[[-4.0, -2, 0, -2], [4, 6, 0.5, 3.5], [0, 2, 1, 1]],
                            [[-5.0, -1, 2, 0], [1, 2, 3, 4], [4, -2, 2, -2]]])
    effect, total = patched - corrupted, clean - corrupted
    found = tensor_like(call(attempt, patched, corrupted, clean))
    require(found.shape != patched.shape, "there is one number for every prompt: average over the last axis, before "
                                          "you divide.")
    close(tensor_like(found, shape={"layer": 2, "position": 3}), [[0, 1, 12 / 22], [4 / 22, 18 / 22, 10 / 22]], wrong={
        "that is the mean of the shares, in which a prompt with a tiny total effect rules: average first, then divide.":
            (effect / total).mean(-1),
        "the baselines are swapped: 0 must be the corrupted run, 1 the clean one.": 1 - effect.mean(-1) / total.mean(),
        "that is the effect in logits: divide it by the total effect.": effect.mean(-1),
        "divide by the total effect, clean - corrupted, and not by the clean outcome.": effect.mean(-1) / clean.mean(),
        "subtract the corrupted outcome from the patched one first.": patched.mean(-1) / total.mean(),
        "an effect keeps its sign: no absolute value is needed.": effect.abs().mean(-1) / total.mean()})
    single = tensor_like(call(attempt, patched[0, 2], corrupted, clean), shape=())
    close(single, 12 / 22, message="it works on a map, but not for a single patch [prompt]: index the last axis by -1.")
    flipped = tensor_like(call(attempt, patched, clean, corrupted), shape={"layer": 2, "position": 3})
    close(flipped, 1 - found, message="with clean and corrupted exchanged it must give 1 minus the share: is an "
                                      "absolute value taken?")


@exercise("3.4 sweep_layer", difficulty=3, minutes=5)
def _(attempt):
    (_, corrupted), caches, layer = _pair(), _caches(), 1
    correct, wrong = torch.tensor([3, 11]), torch.tensor([8, 20])

    def difference(logits):
        return metrics.logit_difference(logits[:, -1], correct, wrong)

    rows = [_written(corrupted, caches[0], "resid_pre", layer, position) for position in range(POSITIONS)]
    kept = [_written(corrupted, caches[0], "resid_pre", layer, tuple(range(end))) for end in range(1, POSITIONS + 1)]
    right = torch.stack([difference(logits) for logits in rows])
    found = tensor_like(call(attempt, _model(), corrupted, *caches, layer, correct, wrong))
    require(found.shape != (POSITIONS,), "one number per position: logits[0, ...] and correct[0] read the first prompt "
                                         "only. Pair each prompt with its own ids.")
    close(tensor_like(found, shape={"position": POSITIONS, "prompt": 2}), right, wrong={
        "the sweep still remembers: each position must start from a fresh corrupted stream, without earlier patches.":
            torch.stack([difference(logits) for logits in kept]),
        "every prompt is read with the ids of the first: pair each with its own.":
            torch.stack([logits[:, -1, 3] - logits[:, -1, 8] for logits in rows]),
        "every position gives the corrupted run: is the clean vector written, and returned?":
            difference(run(_model(), corrupted)).expand(POSITIONS, -1),
        "every position gives the clean run: only one position at a time may be patched.":
            difference(_written(corrupted, caches[0], "resid_pre", layer)).expand(POSITIONS, -1),
        "the sign is flipped: right minus wrong.": -right})


@exercise("3.5 backup", difficulty=2, minutes=3)
def _(attempt):
    def value(a, b):
        return float(tensor_like(torch.as_tensor(call(attempt, a, b), dtype=torch.float32), shape=()))

    corrupted, clean, only_a, only_b = value(0, 0), value(1, 1), value(1, 0), value(0, 1)
    require((corrupted, clean) == (0, 1), "it must be 0 in the corrupted run, (0, 0), and 1 in the clean run, (1, 1): "
                                          f"got {corrupted:g} and {clean:g}.")
    require((only_a, only_b) != (0, 0), "here both cells are needed: neither alone is sufficient, and each is "
                                        "necessary. You were asked for the opposite.")
    require((only_a, only_b) not in ((1, 0), (0, 1)), "here the outcome hangs on one cell, which is sufficient *and* "
                                                      "necessary; the other is neither.")
    require((only_a, only_b) == (1, 1), "one cell alone must restore everything: "
                                        f"(1, 0) gives {only_a:g}, (0, 1) gives {only_b:g}.")


@exercise("3.6 patch_head", difficulty=3, minutes=4)
def _(attempt):
    (_, corrupted), (cache, _), last, layer = _pair(), _caches(), POSITIONS - 1, 1

    def patch(**where):
        return _written(corrupted, cache, "z", layer, **where)

    for head in (CHANGED, 0):
        right, nothing = patch(position=last, head=head), run(_model(), corrupted)
        wrong = {}
        if head == CHANGED:          # an earlier position would change nothing
            wrong["`head` was used as a position: the axes are prompt, position, head, width."] = patch(position=head)
        close(_like_logits(call(attempt, _model(), corrupted, cache, layer, head)), right,
              message="these are not the logits of a run with this one head replaced at the last position.", wrong={
                  **wrong, "nothing changed: does the hook return the tensor, and does it take the clean z?": nothing,
                  "all heads of the layer were patched: index the axis of the heads, z[:, -1, head].":
                      patch(position=last),
                  "the head was patched at every position: only the last one is wanted.": patch(head=head),
                  "the whole layer was patched, at all positions: z[:, -1, head].": patch(),
                  "the next head was patched: heads count from 0.": patch(position=last, head=head + 1),
                  "only the first prompt was patched: z[:, -1, head].": torch.cat([right[:1], nothing[1:]])})


@lru_cache(maxsize=None)
def _held(sender: tuple[int, int], later: str = "clean", whole_layer: bool = False, last_only: bool = False,
          mlps: bool = False) -> torch.Tensor:
    """Logits of the clean run with a corrupted sender, by the engine: what `later` layers do, and how much is sent."""
    (clean, _), caches, (layer, head), layers = _pair(), _caches(), sender, range(_model().cfg.n_layers)

    def z(which, i):
        return caches[which][f"blocks.{i}.attn.hook_z"]

    position = POSITIONS - 1 if last_only else None
    sent = z(1, layer).flatten(2) if whole_layer else z(1, layer)[:, :, head]
    sent = sent[:, position] if last_only else sent
    plan = [Do(Site("z", layer, position, None if whole_layer else head), sent)]
    if later != "free":
        plan += [Do(Site("z", i), z(later == "corrupted", i).flatten(2)) for i in layers[layer + 1:]]
    if mlps:
        plan += [Do(Site("mlp_out", i), caches[0][f"blocks.{i}.hook_mlp_out"]) for i in layers]
    return run(_model(), clean, plan)


@exercise("3.7 direct_path", difficulty=4, minutes=10)
def _(attempt):
    (clean, corrupted), caches, sender = _pair(), _caches(), (0, 1)
    found = _like_logits(call(attempt, _model(), clean, *caches, sender))
    message = "these are not the logits of a clean run in which this head alone is corrupted."
    close(found, _held(sender), message=message, wrong={
        "that is the clean run: the sender must give its corrupted z.": run(_model(), clean),
        "that is the corrupted run: only the sender gives its corrupted z.": run(_model(), corrupted),
        "the later heads react: that is plain activation patching. Hold every other head at its clean z.":
            _held(sender, "free"),
        "the later heads are held at their corrupted z: hold them at the clean one.": _held(sender, "corrupted"),
        "all heads of the sender's layer are corrupted: only one is the sender.": _held(sender, whole_layer=True),
        "the sender is corrupted at the last position only: at all positions, please.": _held(sender, last_only=True),
        "the MLPs are held as well: here they may react.": _held(sender, mlps=True),
        "another head was corrupted: sender is (layer, head), counted from 0.": _held((0, 2))})
    close(_like_logits(call(attempt, _model(), clean, *caches, (2, 0))), _held((2, 0)),
          message="right for a sender in layer 0, but not for one in the last layer: is the layer of the sender used?")

"""Checks of notebook 05: corrupting a subject, restoring states and windows, effects and their errors, severed traces."""
from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..engine import Do, LayerConfig, Site, at_end, read, run
from ..models import load_model, padded
from . import call, close, exercise, require, tensor_like


# ---------------------------------------------------------------- what the checks run on

LENGTH, SUBJECT, SAMPLES = 8, (3, 5), 3
STATE, MLP, ATTENTION = "resid_post", "mlp_out", "attn_out"


@lru_cache(maxsize=1)
def _model():
    """The shipped architecture with random weights."""
    model, generator = load_model("course-gpt2", device="cpu"), torch.Generator().manual_seed(0)
    for name, weights in model.named_parameters():
        weights.normal_(0, 0.1, generator=generator)
        if name.endswith("weight") and weights.dim() == 1:
            weights += 1                              # norms near 1, and
    model.ln_final.weight *= 2                        # logits far enough apart for probabilities that can be told apart
    model(torch.zeros(1, 1, dtype=torch.long))        # a first run lets the bridge put its own hooks on
    return model


@lru_cache(maxsize=None)
def _prompts(copies: int = SAMPLES):
    ids = torch.randint(1, 500, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()
    return padded(_model(), [ids] * copies)


@lru_cache(maxsize=1)
def _corrupt() -> Do:
    noise = torch.randn(SAMPLES, SUBJECT[1] - SUBJECT[0], _model().cfg.d_model, generator=torch.Generator().manual_seed(2))
    site = Site("embed", position=tuple(range(*SUBJECT)))
    return Do(site, read(_model(), _prompts(), [site])[1][site] + 0.5 * noise)


@lru_cache(maxsize=None)
def _clean(kind: str) -> torch.Tensor:
    """Activations [layer, position, width] of the clean run."""
    sites = [Site(kind, layer) for layer in range(_model().cfg.n_layers)]
    kept = read(_model(), _prompts(1), sites)[1]
    return torch.stack([kept[site][0] for site in sites])


@lru_cache(maxsize=1)
def _answer() -> int:
    return int(at_end(_model(), _prompts(1)).argmax())


def _score(*plan: Do) -> torch.Tensor:
    return at_end(_model(), _prompts(), plan).softmax(-1)[:, _answer()]


def _mend(kind: str, layer: int, position: int) -> Do:
    """The clean activation written at its place."""
    return Do(Site(kind, layer, position), _clean(kind)[layer, position])


def _probabilities(found) -> torch.Tensor:
    require(getattr(found, "shape", None) != (), "one probability for each sample is asked for: do not average.")
    return tensor_like(found, shape={"sample": SAMPLES})


def _logits_instead(plan: list[Do]) -> dict:
    """What reading the wrong number off the right run gives, with its message."""
    logits = run(_model(), _prompts(), plan)
    return {"these are logits: a softmax over the vocabulary makes probabilities of them.": logits[:, -1, _answer()],
            "the probability is read at another position: the answer is predicted at the last one, logits[:, -1].":
                logits[:, SUBJECT[1] - 1].softmax(-1)[:, _answer()]}


# ---------------------------------------------------------------- exercises

@exercise("5.1 corrupt_subject", difficulty=2, minutes=4)
def _(attempt):
    generator = torch.Generator().manual_seed(3)
    embeddings, draws = (torch.randn(*shape, generator=generator) for shape in ((6, 4), (3, 2, 4)))
    shape = {"sample": 3, "position": 6, "width": 4}

    def noisy(first=2, level=0.5, numbers=draws):
        found = embeddings.repeat(3, 1, 1)
        found[:, first:first + 2] += level * numbers
        return found

    replaced, shrunk = noisy(level=0.0), noisy()
    replaced[:, 2:4] = 0.5 * draws
    shrunk[:, 2:4] = embeddings[2:4] * (1 + 0.5 * draws)
    close(tensor_like(call(attempt, embeddings, (2, 4), 0.5, draws), shape=shape), noisy(), wrong={
        "every sample got the same noise: sample i has the draw draws[i].": noisy(numbers=draws[:1]),
        "the noise is one position too late: it begins at `first`, subject[0].": noisy(first=3),
        "the noise is on the first tokens of the sentence, wherever the subject stands.": noisy(first=0),
        "the level is ignored: multiply the draws by it.": noisy(level=1.0),
        "the embeddings were replaced by noise: add the noise to them.": replaced,
        "the noise was multiplied with the embeddings: add it.": shrunk,
        "nothing is corrupted.": noisy(level=0.0)},
        message="the subject's tokens must be embedding + level x draw, all other positions as they were.")
    close(tensor_like(call(attempt, embeddings, (2, 4), 0.0, draws), shape=shape), noisy(level=0.0),
          message="level 0 must change nothing: is 0 taken for 'no level given'?")


@exercise("5.2 restore_one", difficulty=2, minutes=5)
def _(attempt):
    states, low = _clean(STATE), _score(_corrupt())
    for layer, position in ((2, 4), (1, LENGTH - 1)):
        wrong = {
            "nothing came back: is the mended state among the interventions of the run?": low,
            "that is the clean run: `corrupt` must act too, and only one position may be restored.": _score(),
            "off by one layer: the state *after* block `layer` is resid_post.":
                _score(_corrupt(), Do(Site("resid_pre", layer, position), states[layer, position])),
            "the attention or MLP output was restored, not the state of the stream.":
                _score(_corrupt(), Do(Site(MLP, layer, position), states[layer, position])),
            **_logits_instead([_corrupt(), _mend(STATE, layer, position)])}
        if position + 1 < LENGTH:
            wrong["off by one position: the next one was restored."] = _score(_corrupt(), _mend(STATE, layer, position + 1))
        found = _probabilities(call(attempt, _model(), _prompts(), _corrupt(), states, layer, position, _answer()))
        close(found, _score(_corrupt(), _mend(STATE, layer, position)), wrong=wrong,
              message="these are not the probabilities of corrupted runs with this one state clean again.")


@exercise("5.3 effects", difficulty=2, minutes=3)
def _(attempt):
    corrupted, clean = torch.tensor([0.1, 0.3, 0.2, 0.2]), 0.8                  # mean 0.2
    restored = torch.tensor([[[0.5, 0.7, 0.6, 0.6], [0.1, 0.3, 0.2, 0.2]], [[0.7, 0.3, 0.4, 0.2], [0.0, 0.2, 0.2, 0.0]]])
    result = call(attempt, restored, corrupted, clean)
    require(isinstance(result, (tuple, list)) and len(result) == 3,
            "three things are asked for: total effect, indirect effects, standard errors.")
    total, indirect, error = result
    close(tensor_like(total, shape=()), 0.6, wrong={
        "the sign of the total effect is flipped: clean minus corrupted.": -0.6,
        "the total effect is a difference: nothing is divided.": 0.75,
        "that is the clean probability: subtract the mean corrupted one.": 0.8})
    gain = restored - corrupted
    mean = torch.tensor([[0.4, 0.0], [0.2, -0.1]])
    close(tensor_like(indirect, shape={"layer": 2, "position": 2}), mean, wrong={
        "that is the share of the total effect: an indirect effect is a plain difference, divided by nothing.": mean / 0.6,
        "that is what is still missing, clean minus restored: asked for is restored minus corrupted.": 0.6 - mean,
        "the sign of the indirect effect is flipped: restored minus corrupted.": -mean,
        "an effect keeps its sign: a state may also push the answer down.": mean.abs(),
        "subtract the corrupted probability from the restored one.": restored.mean(-1)})
    right = gain.std(-1) / 2
    close(tensor_like(error, shape={"layer": 2, "position": 2}), right, wrong={
        "restored and corrupted run of a sample share their noise: subtract sample by sample before you take the "
        "standard deviation.": restored.std(-1) / 2,
        "restored and corrupted run were taken as independent: subtract sample by sample first.":
            (restored.var(-1) / 4 + corrupted.var() / 4).sqrt(),
        "that is the standard deviation: divide it by the square root of the number of samples.": gain.std(-1),
        "divide by the square root of the number of samples, not by the number.": gain.std(-1) / 4,
        "the standard deviation needs n - 1 (correction=1).": gain.std(-1, correction=0) / 2})


@exercise("5.4 restore_window", difficulty=2, minutes=4)
def _(attempt):
    position, low = LENGTH - 1, _score(_corrupt())
    for kind, other, window in ((MLP, ATTENTION, range(2, 5)), (ATTENTION, MLP, range(4, 6))):
        mends = [_mend(kind, layer, position) for layer in window]
        singles = torch.stack([_score(_corrupt(), mend) for mend in mends])
        found = call(attempt, _model(), _prompts(), _corrupt(), _clean(kind), kind, window, position, _answer())
        close(_probabilities(found), _score(_corrupt(), *mends), wrong={
            "that is still the average of single restores: put all layers of the window into one run.": singles.mean(0),
            "these are the single gains added up: in one run the layers act upon each other.": low + (singles - low).sum(0),
            "only the first layer of the window was restored.": singles[0],
            "only the last layer of the window was restored: is the list overwritten in the loop?": singles[-1],
            "the last layer of the window is missing: `window` holds the very layers.": _score(_corrupt(), *mends[:-1]),
            "nothing came back: are the restored outputs among the interventions of the run?": low,
            "the clean run was mended: `corrupt` must act as well.": _score(*mends),
            "another kind of output was restored: use `kind`.":
                _score(_corrupt(), *[_mend(other, layer, position) for layer in window]),
            **_logits_instead([_corrupt(), *mends])} if len(window) > 2 else {},
            message="these are not the probabilities of one run with the whole window clean again.")


@exercise("5.5 trace_map", difficulty=3, minutes=5)
def _(attempt):
    shape, start, stop = (3, 4), 1, 3
    samples = torch.tensor([0.0, 0.02, 0.1])

    def spoil(level):
        return 0.9 - level + samples

    def restore(level, layer, position):
        return 0.9 - level * (0.1 * layer + 0.2 * position) + 2 * samples

    def right(level, start=start, stop=stop, sample=None):
        low, found = spoil(level).mean(), torch.full(shape, float("nan"))
        for layer in range(start, stop):
            for position in range(shape[0]):
                score = restore(level, layer, position)
                found[position, layer] = (score.mean() if sample is None else score[sample]) - low
        return found

    def tried(**options):
        return call(attempt, restore, spoil, shape, start, stop, **options)

    found = tried(level=0.4)
    require(isinstance(found, Tensor), "expected a tensor [position, layer].")
    require(found.shape == shape, "the map keeps all positions and layers: NaN in those that were not computed.")
    require(not found[:, [0, 3]].eq(0).all(), "layers that were not computed are reported as 0, like a state without "
                                              "effect: make them NaN.")
    close(found, right(0.4), wrong={
        "only the first sample is used: take the mean over all of them.": right(0.4, sample=0),
        "only the last sample is used: take the mean over all of them.": right(0.4, sample=-1),
        "`stop` is not included: one layer too many was computed.": right(0.4, stop=4),
        "these are the scores: subtract the mean corrupted one.": right(0.4) + spoil(0.4).mean()})
    close(tried(level=0.0, default=0.5), right(0.0), wrong={
        "level 0 was taken for 'no level given': ask whether it is None.": right(0.5)},
        message="with level 0 the map must be that of level 0.")
    close(tried(default=0.5), right(0.5), message="without a level the map must be that of `default`.")


@exercise("5.6 two_errors", difficulty=2, minutes=4)
def _(attempt):
    found = torch.tensor([[0.1, 0.3, 0.2, 0.2], [0.8, 0.6, 0.7, 0.7], [0.3, 0.3, 0.3, 0.3]])      # means .2, .7, .3
    result = call(attempt, found)
    require(isinstance(result, (tuple, list)) and len(result) == 2, "two errors are asked for: over samples, over facts.")
    over_samples = torch.tensor([0.0816496581 / 2, 0.0816496581 / 2, 0.0])
    over_facts = 0.2645751311 / 3**0.5                                           # std of .2, .7, .3
    within, across = result
    sizes = [getattr(part, "shape", ()) for part in result]
    require(sizes[0] != (4,), "the first error runs over the samples of each fact: the axes are [fact, sample].")
    require(sizes != [(), (3,)], "the two errors are exchanged: first over samples, then over facts.")
    close(tensor_like(within, shape={"fact": 3}), over_samples, wrong={
        "the standard deviation over samples is no standard error: divide by the square root of their number.":
            2 * over_samples,
        "divide by the square root of the number of samples, not by the number.": over_samples / 2})
    close(tensor_like(across, shape=()), over_facts, wrong={
        "that is still one pot: make one number of each fact first, its mean over samples.":
            found.std() / 12**0.5,
        "that is the typical error over samples: how far do the *means of facts* lie apart?": over_samples.mean(),
        "the standard deviation over facts is no standard error: divide by the square root of their number.":
            over_facts * 3**0.5,
        "divide by the root of the number of facts: the samples are no facts.": over_facts * 3**0.5 / 12**0.5,
        "the standard deviation needs n - 1 (correction=1).": over_facts * (2 / 3) ** 0.5})


@exercise("5.7 severed_restore", difficulty=4, minutes=6)
def _(attempt):
    last, later = LENGTH - 1, range(4, _model().cfg.n_layers)
    for part, position in ((MLP, last), (ATTENTION, last), (MLP, 4)):
        mend = _mend(STATE, 3, position)

        def held(kind, *plan, layers=later, everywhere=False):
            """The outputs of `kind` in the run with this plan, written again."""
            sites = [Site(kind, layer, None if everywhere else position) for layer in layers]
            return [Do(site, value) for site, value in read(_model(), _prompts(), sites, plan)[1].items()]

        def score(*writes):
            return _score(_corrupt(), mend, *writes)

        wrong = {
            "nothing is severed: that is the plain restore. Are the later outputs read *without* the mended state?":
                score(*held(part, _corrupt(), mend)),
            "the later outputs are held at their *clean* values: corrupted ones are meant.": score(*held(part)),
            "the later outputs are set to zero: hold them at what they are in the corrupted run.":
                score(*(Do(Site(part, layer, position), 0.0) for layer in later)),
            "only the next layer is severed: all later ones are meant.": score(*held(part, _corrupt(), layers=later[:1])),
            "the next layer itself is left out: severed are all layers from layer + 1 on.":
                score(*held(part, _corrupt(), layers=later[1:])),
            "the other part is severed: use `part`.": score(*held(ATTENTION if part == MLP else MLP, _corrupt())),
            "nothing was restored: that is the corrupted run.": _score(_corrupt())}
        if part == MLP:      # attention at the last position is held: it no longer sees whether the subject is corrupted
            wrong["the run is not corrupted: `corrupt` must act in both runs."] = _score(mend, *held(part, _corrupt()))
        if position < last:
            wrong["the part is severed at every position: only at `position`."] = score(
                *held(part, _corrupt(), everywhere=True))
        found = call(attempt, _model(), _prompts(), _corrupt(), _clean(STATE), 3, position, _answer(), part)
        close(_probabilities(found), score(*held(part, _corrupt())), wrong=wrong,
              message="these are not the probabilities of a severed restore.")


@exercise("5.8 llama_layers", difficulty=1, minutes=3)
def _(attempt):
    require(isinstance(attempt, LayerConfig), "expected a LayerConfig(blocks, attention, MLP, embedding).")
    fields = {"hidden_layers_matcher": ("the state after each block", ["model.layers.{}"]),
              "attention_layers_matcher": ("what attention adds", ["model.layers.{}.self_attn", "model.layers.{}.self_attn.o_proj"]),
              "mlp_layers_matcher": ("what the MLP adds", ["model.layers.{}.mlp", "model.layers.{}.mlp.down_proj"]),
              "embedding_layer": ("the token embeddings", ["model.embed_tokens"])}
    for layer in range(3):
        for field, (what, templates) in fields.items():
            right = [template.format(layer) for template in templates]
            name = attempt.embedding_layer if field == "embedding_layer" else attempt.name(field, layer)
            require(f"model.{name}" not in right, f"{field}: this model has no module {name!r}, but 'model.{name}': names "
                                                  "begin at the model that has the head.")
            require(name in right, f"{field}: {name!r} is not the module whose output is {what} in layer {layer}.")

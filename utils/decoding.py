"""Reading the residual stream as if the model ended early.

`decode` puts any residual vector through the final norm and the unembedding (nostalgebraist 2020, "the logit lens").
Layers are counted as states of the stream: state 0 enters block 0, state `n_layers` leaves the last block, so that the
last state decodes to the model's own logits. Source of the questions asked here: Merullo et al. 2023 (2305.16130).
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence

import torch
from jaxtyping import Float, Int

from .engine import Do, Each, Readout, Site, at_end, head_results, held, read, require_sum, trusted_readout
from .errors import CourseError, check_arguments
from .metrics import LogitDifference
from .models import Prompts, context_of, continuation_ids, encode, get_tokenizer, padded, shape_of

UPDATES = ("attn_out", "mlp_out")


# ---------------------------------------------------------------- states of the stream

def stream(model, prompts: Prompts) -> Float[torch.Tensor, "state prompt width"]:
    """The residual stream at the end of every prompt, before each block and after the last one."""
    layers, end = shape_of(model)[0], Each.of(prompts.ends)
    sites = [Site("resid_pre", layer, end) for layer in range(layers)] + [Site("resid_post", layers - 1, end)]
    _, found = read(model, prompts, sites)
    return torch.stack([found[site] for site in sites])


@torch.no_grad()
def decode(model, residual: Float[torch.Tensor, "*batch width"]) -> Float[torch.Tensor, "*batch vocab"]:
    """Logits of residual vectors: final norm, unembedding, and what the model does to its logits after that.

    On the first use of a model its last state is compared with its own logits. Raises CourseError if they differ, or if
    the model has no such readout.
    """
    return trusted_readout(model).logits(residual)


def decode_layers(model, prompts: Prompts) -> Float[torch.Tensor, "state prompt vocab"]:
    """Early decoding of every state. Mind the memory on a large vocabulary: a few prompts at a time."""
    return decode(model, stream(model, prompts))


def top_tokens(model, logits: Float[torch.Tensor, "state vocab"], k: int = 5) -> list[list[tuple[str, float]]]:
    """The `k` most probable tokens of each state with their probabilities."""
    values, ids = logits.softmax(-1).topk(k, dim=-1)
    tokenizer = get_tokenizer(model)
    return [[(tokenizer.decode([i]), v) for i, v in zip(row, vs)] for row, vs in zip(ids.tolist(), values.tolist())]


# ---------------------------------------------------------------- one answer through the layers

@dataclass(frozen=True)
class Trajectory:
    """An answer through the states of the stream; both [state, prompt].

    For an answer of several tokens the probability is that of all tokens in a row, and the rank is the worst of theirs
    (each token is decoded with the ones before it in place).
    """
    probability: Float[torch.Tensor, "state prompt"]
    rank: Int[torch.Tensor, "state prompt"]

    @property
    def reciprocal_rank(self) -> Float[torch.Tensor, "state prompt"]:
        return 1.0 / self.rank

    @property
    def first_top(self) -> Int[torch.Tensor, "prompt"]:
        """The first state in which the answer has rank 1; -1 if it never has."""
        top = self.rank == 1
        return torch.where(top.any(0), top.float().argmax(0), -1)


def trajectories(model, prompts: Sequence[str], answers: Sequence[str], *, batch_size: int = 32) -> Trajectory:
    """Early decoding of each answer at every state; answers of several tokens are handled (see `Trajectory`).

    Raises CourseError if there are not as many answers as prompts.
    """
    prompts, answers = list(prompts), list(answers)
    if len(prompts) != len(answers):
        raise CourseError(f"{len(prompts)} prompts but {len(answers)} answers: give one answer for each prompt")
    parts = [_trajectories(model, prompts[i:i + batch_size], answers[i:i + batch_size])
             for i in range(0, len(prompts), batch_size)]
    return Trajectory(*(torch.cat([getattr(p, name) for p in parts], 1) for name in ("probability", "rank")))


def _trajectories(model, prompts: Sequence[str], answers: Sequence[str]) -> Trajectory:
    tokenizer = get_tokenizer(model)
    ids = [continuation_ids(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers)]
    if not all(ids):
        raise CourseError("an answer is empty: write a word with its leading space, such as ' Paris'")
    given = encode(model, prompts)
    ends = given.ends
    rows = [row[:end + 1].tolist() + more[:-1] for row, end, more in zip(given.tokens, ends.tolist(), ids)]
    limit = context_of(model)
    if limit is not None and max(map(len, rows)) > limit:
        raise CourseError(f"prompt and answer together are longer than the context of {limit} tokens")
    longer = padded(model, rows)
    log_probability, rank = 0.0, None
    for j in range(max(map(len, ids))):
        target = torch.tensor([row[min(j, len(row) - 1)] for row in ids], device=ends.device)
        exists = torch.tensor([j < len(row) for row in ids], device=ends.device)
        where = Prompts(longer.tokens, longer.mask, torch.where(exists, ends + j, ends), longer.labels)
        states = stream(model, where)
        scores = torch.stack([decode(model, state).log_softmax(-1) for state in states])
        if scores.isnan().any():
            raise CourseError("a state of the stream decodes to NaN, so no answer has a rank: did the model give numbers?")
        own = scores.gather(-1, target.expand(len(states), -1)[..., None])
        place = torch.where(exists, (scores > own).sum(-1) + 1, 1)
        log_probability = log_probability + torch.where(exists, own.squeeze(-1), torch.zeros(()))
        rank = place if rank is None else torch.maximum(rank, place)
    return Trajectory(log_probability.exp().cpu(), rank.cpu())


# ---------------------------------------------------------------- updates

def updates(model, prompts: Prompts) -> dict[str, Float[torch.Tensor, "layer prompt width"]]:
    """What attention ("attn_out") and MLP ("mlp_out") of each layer add to the stream at the end of each prompt."""
    layers, end = shape_of(model)[0], Each.of(prompts.ends)
    sites = {kind: [Site(kind, layer, end) for layer in range(layers)] for kind in UPDATES}
    _, found = read(model, prompts, [site for group in sites.values() for site in group])
    return {kind: torch.stack([found[site] for site in group]) for kind, group in sites.items()}


@dataclass(frozen=True)
class Steps:
    """The stream after every single update, in order: embedding, attention 0, MLP 0, attention 1, ...

    residual: [step, prompt, width]; labels: one name per step; site of step i > 0: `kind`, `layer`.
    """
    residual: Float[torch.Tensor, "step prompt width"]
    labels: tuple[str, ...]

    def site(self, step: int) -> tuple[str, int]:
        """(kind, layer) of the update that leads to `step` (1 is attention of layer 0). Raises CourseError below 1."""
        if step < 1:
            raise CourseError(f"no update leads to step {step}: updates lead to the steps from 1 on")
        return UPDATES[(step - 1) % 2], (step - 1) // 2


def steps(model, prompts: Prompts) -> Steps:
    """Rebuild the stream at the end of each prompt update by update (blocks that add attention, then MLP).

    Raises CourseError where the stream is not the sum of its updates.
    """
    require_sum(model)
    added = updates(model, prompts)
    both = torch.stack([added[kind] for kind in UPDATES], 1).flatten(0, 1)
    start = stream(model, prompts)[:1]
    residual = torch.cat([start, start + both.cumsum(0)])
    names = [f"{kind} {layer}" for layer in range(len(both) // 2) for kind in ("attn", "MLP")]
    return Steps(residual, ("embed", *names))


def first_shown(model, prompts: Prompts, answers: Int[torch.Tensor, "prompt"]) -> Int[torch.Tensor, "prompt"]:
    """The first step of `steps` after which the answer decodes as the top token; -1 if none."""
    states = steps(model, prompts).residual
    top = torch.stack([decode(model, state).argmax(-1) == answers for state in states])
    return torch.where(top.any(0), top.float().argmax(0), -1)


def without_update(model, prompts: Prompts, kind: str, layer: int) -> Float[torch.Tensor, "prompt vocab"]:
    """Logits at the end when one update is left out there during the run (later layers react to its absence)."""
    return at_end(model, prompts, [Do(Site(kind, layer, Each.of(prompts.ends)), 0.0)])


def subtract_update(model, prompts: Prompts, kind: str, layer: int) -> Float[torch.Tensor, "prompt vocab"]:
    """Logits when one update is subtracted from the final stream (later layers keep what they did with it)."""
    update, final = Site(kind, layer, Each.of(prompts.ends)), stream(model, prompts)[-1]
    return decode(model, final - read(model, prompts, [update])[1][update])


def transplant(model, update: Float[torch.Tensor, "prompt width"], targets: Prompts, kind: str, layer: int, *,
               add: bool = False) -> Float[torch.Tensor, "prompt vocab"]:
    """Logits of `targets` when `update` replaces (or, with `add`, joins) their own update at the end."""
    value = (lambda own: own + update[:, None]) if add else update
    return at_end(model, targets, [Do(Site(kind, layer, Each.of(targets.ends)), value)])


# ---------------------------------------------------------------- direct logit attribution

@dataclass(frozen=True)
class Attribution:
    """Direct contributions to a logit difference, in logits; they sum to it exactly.

    heads: [layer, head, prompt]; mlps: [layer, prompt]; rest: [prompt] (embeddings and biases).
    """
    heads: Float[torch.Tensor, "layer head prompt"]
    mlps: Float[torch.Tensor, "layer prompt"]
    rest: Float[torch.Tensor, "prompt"]

    @property
    def total(self) -> Float[torch.Tensor, "prompt"]:
        return self.heads.sum((0, 1)) + self.mlps.sum(0) + self.rest


@torch.no_grad()
def direct_attribution(model, prompts: Prompts, outcome: LogitDifference) -> Attribution:
    """Split the logit difference at the end into what each head and each MLP wrote directly (Elhage et al. 2021).

    The final norm divides by a number that depends on the whole stream; it is held at its value in this run, which makes
    the rest linear. So are a norm that follows attention and a softcap of the logits, in families that have them.
    Raises CourseError where the stream is no sum, or if the contributions do not sum to the model's own logit difference.
    """
    require_sum(model)
    layers, end = shape_of(model)[0], Each.of(prompts.ends)
    written, last = [Site("mlp_out", layer, end) for layer in range(layers)], Site("resid_post", layers - 1, end)
    logits, found = read(model, prompts, [last, *written], end_only=True)
    project, constant = _towards(model, found[last], outcome)
    heads = head_results(model, prompts, positions="end")                                 # [layer, head, prompt, width]
    mlps = torch.stack([found[site] for site in written])
    rest = found[last] - heads.sum((0, 1)) - mlps.sum(0)
    parts = Attribution(project(heads), project(mlps), project(rest) + constant)
    difference = outcome(logits, torch.arange(len(prompts), device=logits.device))
    if not (parts.total - difference).abs().max() <= 1e-4 * (logits.max() - logits.min()):
        raise CourseError("the contributions do not sum to the logit difference of this model: its readout does more than "
                          "the course knows of")
    return parts


def _towards(model, final: Float[torch.Tensor, "prompt width"], outcome: LogitDifference):
    """(a linear map from vectors in the stream to logits, a constant [prompt]): difference = map(final) + constant."""
    readout = trusted_readout(model)
    norm, offset = held(readout.norm, final, readout.norm_offset)
    weight, bias = readout.unembed.weight, readout.unembed.bias
    wanted = weight[outcome.correct] - weight[outcome.wrong]                              # [prompt, width]
    if readout.project is not None:
        wanted = wanted @ readout.project.weight
    constant = (wanted * offset).sum(-1)
    if bias is not None:
        constant = constant + bias[outcome.correct] - bias[outcome.wrong]
    scale = readout.scale * _of_softcap(readout, final, outcome)

    def project(vectors: Float[torch.Tensor, "*part prompt width"]) -> Float[torch.Tensor, "*part prompt"]:
        return (norm(vectors) * wanted).sum(-1) * scale
    return project, constant * scale


def _of_softcap(readout: Readout, final: Float[torch.Tensor, "prompt width"],
                outcome: LogitDifference) -> Float[torch.Tensor, "prompt"] | float:
    """What a softcap leaves of each prompt's logit difference, as a factor; it is held at its value in this run."""
    if readout.softcap is None:
        return 1.0
    index = torch.arange(len(final), device=final.device)
    before = outcome(replace(readout, softcap=None).logits(final), index)
    return torch.where(before == 0, 1.0, outcome(readout.logits(final), index) / before)


check_arguments(globals())

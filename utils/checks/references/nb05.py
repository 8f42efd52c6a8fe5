"""Derived from the exercise cells of solutions/05_causal_tracing.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from utils.engine import Do, LayerConfig, Site, read, run


def corrupt_subject(embeddings: Float[Tensor, "position width"], subject: tuple[int, int], level: float,
                    draws: Float[Tensor, "sample token width"]) -> Float[Tensor, "sample position width"]:
    """The embeddings once for each sample, with `level` times the sample's own draw added to the subject's tokens."""
    corrupted = embeddings.repeat(len(draws), 1, 1)
    corrupted[:, subject[0]:subject[1]] += level * draws
    return corrupted


def restore_one(model, prompts, corrupt: Do, clean_states: Float[Tensor, "layer position width"], layer: int,
                position: int, answer: int) -> Float[Tensor, "sample"]:
    """Probability of token `answer` at the end of each corrupted run in which one state is clean again."""
    mend = Do(Site("resid_post", layer, position), clean_states[layer, position])
    logits = run(model, prompts, [corrupt, mend])
    return logits[:, -1].softmax(-1)[:, answer]


def effects(restored: Float[Tensor, "*cell sample"], corrupted: Float[Tensor, "sample"],
            clean: float) -> tuple[float, Float[Tensor, "*cell"], Float[Tensor, "*cell"]]:
    """(total effect, indirect effects, their standard errors over samples), as differences of probabilities."""
    gain = restored - corrupted
    return clean - corrupted.mean().item(), gain.mean(-1), gain.std(-1) / gain.shape[-1] ** 0.5


def restore_window(model, prompts, corrupt: Do, clean_outputs: Float[Tensor, "layer position width"], kind: str,
                   window: range, position: int, answer: int) -> Float[Tensor, "sample"]:
    """Probability of the answer with the outputs of `kind` clean again, at one position, in all layers of `window`."""
    mend = [Do(Site(kind, layer, position), clean_outputs[layer, position]) for layer in window]
    logits = run(model, prompts, [corrupt, *mend])
    return logits[:, -1].softmax(-1)[:, answer]


def trace_map(restore, spoil, shape: tuple[int, int], start: int, stop: int, level: float | None = None,
              default: float = 0.3) -> Float[Tensor, "position layer"]:
    """Indirect effects of the layers from `start` up to `stop` (not included); NaN where nothing was computed."""
    level = default if level is None else level
    low = spoil(level).mean()
    found = torch.full(shape, float("nan"))
    for layer in range(start, stop):
        for position in range(shape[0]):
            found[position, layer] = restore(level, layer, position).mean() - low
    return found


def two_errors(effects: Float[Tensor, "fact sample"]) -> tuple[Float[Tensor, "fact"], float]:
    """(standard error over samples for each fact, standard error over facts of the mean of all facts)."""
    facts, samples = effects.shape
    return effects.std(1) / samples ** 0.5, effects.mean(1).std().item() / facts ** 0.5


def severed_restore(model, prompts, corrupt: Do, clean_states: Float[Tensor, "layer position width"], layer: int,
                    position: int, answer: int, part: str = "mlp_out") -> Float[Tensor, "sample"]:
    """Probability of the answer with one state clean again; later outputs of `part` at its position stay corrupted."""
    sites = [Site(part, later, position) for later in range(layer + 1, len(clean_states))]
    _, kept = read(model, prompts, sites, [corrupt])
    mend = Do(Site("resid_post", layer, position), clean_states[layer, position])
    logits = run(model, prompts, [corrupt, mend, *(Do(site, kept[site]) for site in sites)])
    return logits[:, -1].softmax(-1)[:, answer]


llama_layers = LayerConfig("model.layers.{num}", "model.layers.{num}.self_attn", "model.layers.{num}.mlp",
                           "model.embed_tokens")

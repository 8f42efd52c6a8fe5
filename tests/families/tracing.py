"""Causal tracing on every model: the unit of the noise, the noise itself, and every cell, computed by hand."""
from functools import lru_cache, partial

import numpy as np
import torch
from reference import PATHS, SCALES, naive
from small_models import LAYERS, VOCAB, plain, tokenizer_of

from utils.tracing import CausalTracer

from .cases import Pair, put

PROMPT, SUBJECT, ANSWER, SAMPLES, SEED = " ab cd ef gi", (1, 3), 45, 2, 1
PART = {"hidden": "resid_post", "mlp": "mlp_out", "attention": "attn_out"}
TRACES = [dict(kind="hidden"), dict(kind="mlp", window=2), dict(kind="attention"), dict(kind="hidden", severed="mlp")]


def trace(case):
    yield Pair("noise", lambda: torch.tensor([tracer(case).noise, 0.0]), lambda: torch.tensor([noise(case.name), 0.0]))
    for options in TRACES:
        yield Pair(f"{options}", partial(flow, case, options), partial(flow_by_hand, case.name, **options))


def tracer(case):
    return CausalTracer(case.model, tokenizer_of(case.name))


def flow(case, options):
    """Every probability of a trace in one row: restored cells, the corrupted runs, the clean run."""
    found = tracer(case).calculate_hidden_flow(PROMPT, SUBJECT, answer=ANSWER, samples=SAMPLES, seed=SEED, **options)
    return torch.cat([found.outcomes.flatten(), found.low_samples, torch.tensor([found.high_score])])


def noise(name):
    """Three standard deviations of all token embeddings, as they are where the noise is added."""
    with torch.no_grad():
        embedded = plain(name).get_submodule(PATHS[name]["embed"])(torch.arange(VOCAB))
    return 3 * SCALES.get((name, "embed"), 1.0) * embedded.std().item()


def flow_by_hand(name, kind, window=1, severed=None):
    tokens = torch.tensor(tokenizer_of(name)(PROMPT)["input_ids"])
    cells = [restored(name, tokens, sample, kind, window, severed, token, layer)
             for token in range(len(tokens)) for layer in range(LAYERS) for sample in range(SAMPLES)]
    low = [probability(naive(name, tokens, [corrupt(name, sample)])[0]) for sample in range(SAMPLES)]
    return torch.stack([*cells, *low, probability(clean(name)[0])])


def probability(logits):
    return logits[-1].softmax(-1)[ANSWER]


@lru_cache(maxsize=None)
def clean(name):
    tokens = torch.tensor(tokenizer_of(name)(PROMPT)["input_ids"])
    return naive(name, tokens, wanted=everything())


@lru_cache(maxsize=None)
def corrupted(name, sample):
    tokens = torch.tensor(tokenizer_of(name)(PROMPT)["input_ids"])
    return naive(name, tokens, [corrupt(name, sample)], wanted=everything())[1]


def everything():
    return [("embed", None)] + [(kind, layer) for kind in PART.values() for layer in range(LAYERS)]


def corrupt(name, sample):
    """The edit that adds noise to the subject."""
    first, end = SUBJECT
    embedded = clean(name)[1]["embed", None].clone()
    drawn = np.random.RandomState(SEED).randn(SAMPLES, end - first, embedded.shape[-1])[sample]
    embedded[first:end] += noise(name) * torch.from_numpy(drawn).float()
    return put("embed", None, embedded, slice(first, end))


def restored(name, tokens, sample, kind, window, severed, token, layer):
    """The probability with the activations of a window of layers as in the clean run, at one token."""
    layers = range(max(0, layer - window // 2), min(LAYERS, layer + (window + 1) // 2))
    edits = [corrupt(name, sample)]
    edits += [put(PART[kind], n, clean(name)[1][PART[kind], n], token) for n in layers]
    if severed:
        edits += [put(PART[severed], n, corrupted(name, sample)[PART[severed], n], token) for n in range(layer + 1, LAYERS)]
    return probability(naive(name, tokens, edits)[0])

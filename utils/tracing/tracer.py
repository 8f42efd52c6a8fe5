"""Causal tracing: which activations carry a fact? Corrupt the subject, restore one activation, read the answer.

Noise is added to the embeddings of the subject's tokens, so that the model loses the answer. Then one activation at a
time gets back the value it had in the clean run; the probability of the answer says how much came back with it.
Meng et al. 2022 (ROME, arXiv 2202.05262). Every trace is one `interventions.sweep`: noise samples are its prompts,
cells of the map its rows.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from ..engine import (FAMILIES, ConfiguredModel, Do, LayerConfig, Places, Site, is_causal, places, read, sweep,
                      token_embeddings)
from ..engine.sites import address
from ..errors import CourseError, several, whole_number
from ..metrics import Probability
from ..models import Prompts, context_of, continuation_ids, encode, is_bridge, shape_of, single_token, token_ids
from ..models.devices import device_called
from .flows import ROLES, AverageEffect, HiddenFlow, average_indirect_effect
from .queries import HiddenFlowQuery, Query, either
from .subjects import guess_subject, token_range

__all__ = ["ROLES", "AverageEffect", "CausalTracer", "HiddenFlow", "HiddenFlowQuery", "LayerConfig", "Query",
           "average_indirect_effect", "guess_subject", "noise_from_embeddings", "noise_from_subjects"]

TRACED = {"hidden": "resid_post", "mlp": "mlp_out", "attention": "attn_out"}
RULES = ("gaussian", "uniform", "swap")


# ---------------------------------------------------------------- noise

def noise_from_embeddings(model, factor: float = 3.0) -> float:
    """`factor` times the standard deviation of the embeddings of all tokens (the default of causal-tracer).

    As the stream gets them: some families multiply the matrix first (Gemma by the root of its width).
    """
    return factor * token_embeddings(model).std().item()


def noise_from_subjects(model, subjects: Sequence, *, tokenizer=None, factor: float = 3.0) -> float:
    """`factor` times the standard deviation of the embeddings of the tokens of all `subjects` together (ROME: 3).

    A subject is a text, or anything with prompt and subject: then its tokens are those it has inside the prompt.
    tokenizer: None for the model's own. Raises CourseError if there are no subjects.
    """
    tokenizer, ids = _tokenizer_of(model, tokenizer), []
    for item in subjects:
        row = tokenizer.encode(getattr(item, "prompt", item), add_special_tokens=False)
        first, end = token_range(tokenizer, row, item.subject) if hasattr(item, "prompt") else (0, len(row))
        ids += row[first:end]
    if not ids:
        raise CourseError("there are no subjects: the noise level is measured on the embeddings of their tokens")
    return factor * token_embeddings(model)[ids].std().item()


def _draw(rule: str, seed: int, samples: int, like: torch.Tensor) -> Float[torch.Tensor, "sample token width"]:
    """Random numbers of standard deviation 1 for embeddings [1, token, width]; the stream of ROME and causal-tracer."""
    rng, shape = np.random.RandomState(seed), (samples, *like.shape[1:])
    return torch.from_numpy(rng.randn(*shape) if rule == "gaussian" else rng.uniform(-3**0.5, 3**0.5, shape)).to(like)


# ---------------------------------------------------------------- the tracer

class CausalTracer:
    """Causal traces of a `TransformerBridge` or a Hugging Face causal language model as it is.

    tokenizer: None for the bridge's own; a plain model needs one, which then decides itself what it puts in front of a
    prompt. layer_config: for a model of another family than GPT-2, Llama, Qwen, Mistral, Gemma or GPT-NeoX. noise:
    standard deviation of what is added to the subject's embeddings; None for `noise_from_embeddings`; ROME's own is
    `noise_from_subjects`. The model is put into evaluation mode, and on `device` if one is given.

    Raises CourseError for a model without a tokenizer, without a language-modelling head or of an unknown family, and
    for negative noise.
    """

    def __init__(self, model, tokenizer=None, layer_config: LayerConfig | None = None, noise: float | None = None,
                 device: str | torch.device | None = None):
        self.tokenizer, self._own_tokenizer = _tokenizer_of(model, tokenizer), tokenizer is None
        model.eval()
        _require_language_model(model, layer_config)
        if device is not None:
            model.to(device_called(device))
        self.model = model if layer_config is None else ConfiguredModel(model, layer_config)
        self.noise = noise_from_embeddings(self.model) if noise is None else _not_negative(noise)

    def count_layers(self) -> int:
        return shape_of(self.model)[0]

    def get_layer_name(self, layer_num: int, layer_kind: str) -> str:
        """The module whose output a cell of this kind restores, by its name in the model.

        Raises CourseError for an unknown kind, or a layer that is not there.
        """
        self._require_kind(layer_kind)
        if not 0 <= layer_num < self.count_layers():
            raise CourseError(f"layer {layer_num} is out of range: this model has layers 0 to {self.count_layers() - 1}")
        module = address(self.model, Site(TRACED[layer_kind], layer_num)).module
        return next(name for name, other in self.model.named_modules() if other is module)

    def get_layer_names_of_kind(self, layer_kind: str) -> list[str]:
        return [self.get_layer_name(layer, layer_kind) for layer in range(self.count_layers())]

    def calculate_hidden_flow(
            self, prompt: str, subject: str | tuple[int, int] | None = None, kind: str = "hidden", *,
            answer: str | int | None = None, window: int = 1, samples: int = 10, noise: float | None = None,
            rule: str = "gaussian", batch_size: int = 128, seed: int = 1, start_layer: int = 0,
            end_layer: int | None = None, patch_subject_tokens_only: bool = False, positions: Places = "all",
            severed: str | None = None, other_subjects: Sequence[str] = (), answer_id_override: int | None = None,
            patch_seed: int | None = None) -> HiddenFlow:
        """Restore every activation of one kind, token by token and layer by layer, in runs with a corrupted subject.

        subject: a part of the prompt, or (first, end) token positions; None guesses it. answer: one token with its
        leading space, or a token id; None for the token the model itself puts first. kind: "hidden" (stream after the
        block), "mlp" or "attention". window: number of layers around the cell's whose outputs are restored together, at
        the cell's token (ROME: 10 for mlp and attention; fewer at the edges of the model). samples: corruptions,
        the same for all cells and every batch_size. noise: None for the tracer's own level, 0 for none.
        rule: "gaussian"; "uniform" (same standard deviation); "swap" (the embeddings of `other_subjects` that have as
        many tokens as the subject, drawn without repetition: fewer samples if there are fewer).
        start_layer, end_layer (not included), patch_subject_tokens_only, positions (see `engine.places`): compute only
        those cells.
        severed: "mlp" or "attention": while a hidden state is restored, that part's outputs at the same token in all
        later layers stay as they were in the corrupted run, so that the effect must pass without them.
        answer_id_override and patch_seed are causal-tracer's names of answer and seed.

        Raises CourseError for bad input.
        """
        answer = either("answer and answer_id_override", answer, answer_id_override)
        seed = either("seed and patch_seed", seed, patch_seed, default=1)
        layers = self._layers(start_layer, end_layer)
        self._check(kind, window, samples, rule, batch_size, severed)
        noise = self.noise if noise is None else _not_negative(noise)
        row = self._tokenise(prompt)
        subject_range = token_range(self.tokenizer, row, guess_subject(prompt) if subject is None else subject)
        restore = self._positions(row, subject_range, patch_subject_tokens_only, positions)
        sites = [Site(TRACED[kind], layer) for layer in range(self.count_layers())]
        embedded = Site("embed", position=tuple(range(*subject_range)))
        logits, clean = read(self.model, self._prompts([row]), [*sites, embedded], end_only=True)
        answer_id, high = self._answer(answer, logits[0])

        if rule == "swap":
            corrupted = self._swapped(row, subject_range, other_subjects, samples, seed)
        else:
            corrupted = clean[embedded] + noise * _draw(rule, seed, samples, clean[embedded])
        prompts, corrupt = self._prompts([row] * len(corrupted)), Do(embedded, corrupted)
        states, freeze = [clean[site][0] for site in sites], self._freeze(prompts, corrupt, severed)
        # A model that looks only back is the same before the subject in both runs: nothing to restore there.
        first = 0 if isinstance(self.model, ConfiguredModel) else subject_range[0]
        cells = [(token, layer) for token in restore if token >= first for layer in layers]
        plans = [self._restored(states, kind, window, *cell) + freeze(*cell) for cell in cells]
        found = sweep(self.model, prompts, [[], *plans], Probability(torch.full_like(prompts.ends, answer_id)),
                      always=[corrupt], batch_size=batch_size)
        outcomes = torch.full((len(row), len(sites), len(prompts)), float("nan"))
        outcomes[restore, layers.start:layers.stop] = found[0]
        for cell, values in zip(cells, found[1:]):
            outcomes[cell] = values
        names = self.get_layer_names_of_kind(kind)
        return HiddenFlow(outcomes, found[0], high, prompts.labels[0], subject_range,
                          self.tokenizer.decode([answer_id]), kind, window, None if rule == "swap" else noise, rule,
                          severed, layers, torch.tensor(row), {n: state.cpu() for n, state in zip(names, states)})

    def calculate_hidden_flows(self, queries: Sequence, *, seed: int = 1, patch_seed: int | None = None,
                               own_noise: bool = True, progress: bool = True, **options) -> list[HiddenFlow]:
        """`calculate_hidden_flow` for each query: a prompt, a `Query`, or whatever has prompt, subject and answer.

        Each query draws its own noise (seed, seed + 1, ...), so that an interval over queries covers the noise as well.
        own_noise=False starts the random numbers anew for each, as ROME's code and causal-tracer do: one unlucky draw then
        hits them all. Raises CourseError for a single string where several queries are meant.
        """
        seed = either("seed and patch_seed", seed, patch_seed, default=1)
        queries = [Query(q) if isinstance(q, str) else q for q in several(queries, "queries")]
        return [self.calculate_hidden_flow(q.prompt, q.subject, answer=q.answer, seed=seed + i * own_noise, **options)
                for i, q in enumerate(tqdm(queries, desc="causal tracing", disable=not progress, leave=False))]

    # -------------------------------------------------------- from text to numbers

    def _tokenise(self, prompt: str) -> list[int]:
        if is_bridge(self.model) and self._own_tokenizer:
            return encode(self.model, prompt).tokens[0].tolist()
        row, limit = token_ids(self.tokenizer, prompt), context_of(self.model)
        if limit is not None and len(row) > limit:
            raise CourseError(f"a prompt has {len(row)} tokens, but the context of this model ends at {limit}: "
                              f"shorten the prompt that starts with {prompt[:30]!r}")
        return row

    def _prompts(self, rows: list[list[int]]) -> Prompts:
        """Prompts of one length from rows of token ids."""
        tokens = torch.tensor(rows, device=next(self.model.parameters()).device)
        labels = tuple(tuple(self.tokenizer.decode([token]) for token in row) for row in rows)
        return Prompts(tokens, torch.ones_like(tokens), torch.full_like(tokens[:, 0], len(rows[0]) - 1), labels)

    def _answer(self, answer: str | int | None, logits: Float[torch.Tensor, "vocab"]) -> tuple[int, float]:
        """Token id of the answer and its probability in the clean run."""
        if not logits.isfinite().all():
            raise CourseError("this model gives logits that are NaN or infinite: its weights are damaged, load them "
                              "again")
        if isinstance(answer, str):
            answer = single_token(self, answer)     # a tracer has a tokenizer, as a model has
        chosen = logits.argmax().item() if answer is None else whole_number(answer, "answer")
        if not 0 <= chosen < len(logits):
            raise CourseError(f"answer {chosen} is out of range: token ids go from 0 to {len(logits) - 1}")
        return chosen, logits.softmax(-1)[chosen].item()

    # -------------------------------------------------------- corruptions

    def _swapped(self, row, subject_range, others, samples, seed) -> Float[torch.Tensor, "sample token width"]:
        """The embeddings that other subjects have in the place of this one."""
        first, end = subject_range
        own = self.tokenizer.decode(row[first:end])
        space = own[:len(own) - len(own.lstrip())]
        before = self.tokenizer.decode(row[:first])
        others = [space + other.strip() for other in several(others, "other_subjects")]
        ids = [continuation_ids(self.tokenizer, before, other) for other in others]
        fitting = [i for i in ids if len(i) == end - first and i != row[first:end]]
        if not fitting:
            raise CourseError(f"rule 'swap' needs other_subjects with as many tokens as {own!r} has, {end - first}; of "
                              f"the {len(ids)} given none has")
        chosen = np.random.RandomState(seed).permutation(len(fitting))[:samples]
        site = Site("embed", position=tuple(range(first, end)))
        swapped = self._prompts([row[:first] + fitting[i] + row[end:] for i in chosen])
        return read(self.model, swapped, [site], end_only=True)[1][site]

    def _restored(self, states: list[Float[torch.Tensor, "token width"]], kind: str, window: int, token: int,
                  layer: int) -> list[Do]:
        """What a cell writes: the clean states of its token, in all layers of its window."""
        return [Do(Site(TRACED[kind], m, token), states[m][token]) for m in self._window(layer, window)]

    def _freeze(self, prompts: Prompts, corrupt: Do, severed: str | None):
        """A function (token, layer) -> what holds the severed part of later layers at its corrupted outputs there."""
        if severed is None:
            return lambda token, layer: []
        parts = [Site(TRACED[severed], layer) for layer in range(shape_of(self.model)[0])]
        _, kept = read(self.model, prompts, parts, [corrupt], end_only=True)
        return lambda token, layer: [Do(Site(part.kind, part.layer, token), kept[part][:, token])
                                     for part in parts[layer + 1:]]

    # -------------------------------------------------------- which cells

    def _window(self, layer: int, window: int) -> range:
        """Layers restored together: `window` of them around `layer`, clipped at the ends of the model as ROME clips them."""
        return range(max(0, layer - window // 2), min(shape_of(self.model)[0], layer + (window + 1) // 2))

    def _positions(self, row: list[int], subject_range: tuple[int, int], subject_only: bool, positions: Places) -> list[int]:
        """The tokens at which something is restored."""
        if subject_only:
            return list(range(*subject_range))
        chosen = places(self._prompts([row]), positions)
        if chosen is None:
            return list(range(len(row)))
        return sorted({chosen} if isinstance(chosen, int) else set(getattr(chosen, "positions", chosen)))

    def _layers(self, start: int, end: int | None) -> range:
        layers = shape_of(self.model)[0]
        end = layers if end is None else end
        if not 0 <= start < end <= layers:
            raise CourseError(f"start_layer {start} and end_layer {end} are out of range: this model has layers 0 to "
                              f"{layers - 1}, and end_layer (not included) goes from start_layer + 1 to {layers}")
        return range(start, end)

    def _require_kind(self, kind: str) -> None:
        if kind not in TRACED:
            raise CourseError(f"kind must be one of {', '.join(TRACED)}, not {kind!r}")

    def _check(self, kind, window, samples, rule, batch_size, severed) -> None:
        self._require_kind(kind)
        if rule not in RULES:
            raise CourseError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
        if severed not in (None, "mlp", "attention"):
            raise CourseError(f"severed must be 'mlp', 'attention' or None, not {severed!r}")
        if severed and kind != "hidden":
            raise CourseError(f"severed={severed!r} goes with kind 'hidden': it asks what a hidden state does without "
                              f"the {severed} of later layers, not what {kind!r} does")
        for name, value in (("window", window), ("samples", samples), ("batch_size", batch_size)):
            if value < 1:
                raise CourseError(f"{name} must be at least 1, not {value}")


def _tokenizer_of(model, tokenizer):
    found = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    if found is None:
        raise CourseError("this model has no tokenizer: give one, CausalTracer(model, tokenizer)")
    return found


def _require_language_model(model, layer_config: LayerConfig | None) -> None:
    plain, kind = (model.original_model if is_bridge(model) else model), type(model).__name__
    family = getattr(getattr(plain, "config", None), "model_type", None)
    if is_bridge(model):
        if layer_config is not None:
            raise CourseError("a TransformerBridge knows its own layers: leave layer_config out")
    elif hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is None:
        raise CourseError(f"a {kind} has no language-modelling head, so it gives no answer: load it with "
                          "transformers.AutoModelForCausalLM, not AutoModel")
    elif layer_config is None and family not in FAMILIES:
        raise CourseError(f"models of type {family!r} are not known here; say where the layers are with "
                          f"layer_config=LayerConfig(...) (known are {', '.join(f for f in FAMILIES if not FAMILIES[f].sees_ahead)})")
    if layer_config is None and not is_causal(model):
        raise CourseError(f"a {kind} looks at both sides of a token; a causal trace needs a model that predicts the "
                          "next one")


def _not_negative(noise: float) -> float:
    if not 0 <= noise < float("inf"):
        raise CourseError(f"the noise level is a standard deviation, at least 0, not {noise}")
    return float(noise)

"""How a model continues a text that repeats: three kinds of heads, and the circuit of two of them.

A sequence is [BOS, S random tokens, the same S tokens]; S is the period. BOS is position 0, the halves are 1 to S and
S + 1 to 2 S. Sources: Olsson et al. 2022 (arXiv 2209.11895), induction heads; Elhage et al. 2021, composition.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from .engine import Do, Site, mlp_alone, read, run, sweep, token_embeddings
from .errors import CourseError, check_arguments, warn
from .metrics import LogProbability
from .models import Prompts, get_tokenizer, is_bridge, shape_of
from .tasks import generate_repeated_tokens

if TYPE_CHECKING:
    from transformer_lens import FactoredMatrix

Head = tuple[int, int]
PARTS = ("first half", "boundary", "second half")
HEAD_ROLES = ("previous-token", "duplicate-token", "induction")
ABLATIONS = ("zero", "mean of others", "resample", "first copy")


# ---------------------------------------------------------------- repeated tokens

def repeated_prompts(model, n: int, period: int, *, seed: int = 0) -> Prompts:
    """`n` sequences [BOS, `period` random tokens, the same again]; tokens [n, 1 + 2 * period].

    Without a beginning-of-text token the end-of-text token stands in front. Raises CourseError for no sequences, or a
    period that is 0 or does not fit into the context.
    """
    tokenizer, longest = get_tokenizer(model), (model.cfg.n_ctx - 1) // 2
    if n < 1 or not 1 <= period <= longest:
        raise CourseError(f"{n} sequences of period {period} cannot be made: choose at least 1 sequence, and a period "
                          f"from 1 to {longest} (1 + 2 * period tokens must fit into the context of {model.cfg.n_ctx})")
    start = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), 0)
    size = min(model.cfg.d_vocab, len(tokenizer))          # some models pad their vocabulary with tokens nobody trained
    tokens = generate_repeated_tokens(n, period, size, bos=start, seed=seed)
    labels = tuple(tuple(tokenizer.decode([token]) for token in row) for row in tokens.tolist())
    tokens = tokens.to(next(model.parameters()).device)
    return Prompts(tokens, torch.ones_like(tokens), torch.full_like(tokens[:, 0], 2 * period), labels)


def period_of(prompts: Prompts) -> int:
    """The period S of [BOS, half, half]. Raises CourseError if the prompts are not of this form."""
    period, odd = divmod(prompts.tokens.shape[1], 2)
    if not odd or not period or not torch.equal(prompts.tokens[:, 1:period + 1], prompts.tokens[:, period + 1:]):
        raise CourseError("these prompts are not [BOS, half, the same half]: make them with repeated_prompts")
    return period


@dataclass(frozen=True)
class Predictions:
    """Of each token but BOS: its log-probability (nats), and 1.0 if it was the most probable one, else 0.0."""
    log_probability: Float[torch.Tensor, "sequence target"]
    right: Float[torch.Tensor, "sequence target"]

    def part(self, name: str) -> slice:
        """The targets of a part: "first half" is positions 1 to S, "boundary" S + 1, "second half" S + 2 to 2 S.

        The boundary token, the first of the second copy, can only be guessed: nothing has been repeated before it.
        """
        if name not in PARTS:
            raise CourseError(f"no part is called {name!r}; choose one of: {', '.join(PARTS)}")
        period = self.right.shape[1] // 2
        return dict(zip(PARTS, (slice(period), slice(period, period + 1), slice(period + 1, 2 * period))))[name]

    def loss(self, part: str = "second half") -> Float[torch.Tensor, "sequence"]:
        """Mean negative log-probability of one part of each sequence, in nats per token."""
        return -self.log_probability[:, self.part(part)].mean(-1)

    def accuracy(self, part: str = "second half") -> Float[torch.Tensor, "sequence"]:
        """Share of the tokens of one part that were the most probable one."""
        return self.right[:, self.part(part)].mean(-1)


@torch.no_grad()
def predictions(model, prompts: Prompts, interventions: Iterable[Do] = ()) -> Predictions:
    """Predictions of all tokens but BOS. Mind the memory on a large vocabulary: a few sequences at a time."""
    period_of(prompts)
    logits, target = run(model, prompts, interventions)[:, :-1], prompts.tokens[:, 1:]
    log_probability = logits.gather(-1, target[..., None]).squeeze(-1) - logits.logsumexp(-1)
    return Predictions(log_probability.cpu(), (logits.argmax(-1) == target).float().cpu())


# ---------------------------------------------------------------- three kinds of heads

def counted(kind: str, period: int) -> tuple[Int[torch.Tensor, "pair"], Int[torch.Tensor, "pair"]]:
    """(queries, keys): where a head of this kind looks, at the queries where it has something to do.

    previous-token: the token before, from position 2 on (before position 1 stands BOS, where idle heads rest).
    duplicate-token: the earlier copy of the same token; induction: the token after that copy; both from S + 1 to 2 S.
    The whole diagonal key = query + 1 - S has two entries more, at S - 1 and S: nothing has come back yet there.
    """
    if kind not in HEAD_ROLES:
        raise CourseError(f"no kind of head is called {kind!r}; choose one of: {', '.join(HEAD_ROLES)}")
    queries = torch.arange(2 if kind == "previous-token" else period + 1, 2 * period + 1)
    return queries, queries - dict(zip(HEAD_ROLES, (1, period, period - 1)))[kind]


def stripe(pattern: Float[torch.Tensor, "*head query key"], kind: str) -> Float[torch.Tensor, "*head"]:
    """Mean attention weight on the pairs that count for one kind, over [BOS, half, half]."""
    queries, keys = counted(kind, (pattern.shape[-1] - 1) // 2)
    return pattern[..., queries, keys].mean(-1)


@torch.no_grad()
def patterns(model, tokens: Int[torch.Tensor, "sequence position"]) -> Float[torch.Tensor, "layer head sequence q k"]:
    """Attention weights of all heads; the last axes are query and key. Raises CourseError if the model shows none."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(shape_of(model)[0])]
    if not is_bridge(model) or any(name not in model.hook_dict for name in names):
        raise CourseError("this model shows no attention patterns: load it with utils.models.load_model")
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names, prepend_bos=False)
    return torch.stack([cache[name].transpose(0, 1) for name in names])


def head_scores(model, prompts: Prompts, *, batch_size: int = 8) -> dict[str, torch.Tensor]:
    """{kind: `stripe` of every head on every sequence, [layer, head, sequence]}; `batch_size` changes no number."""
    period_of(prompts)
    shown = (patterns(model, tokens) for tokens in prompts.tokens.split(batch_size))
    scores = [[stripe(pattern, kind).cpu() for kind in HEAD_ROLES] for pattern in shown]
    return {kind: torch.cat(parts, -1) for kind, parts in zip(HEAD_ROLES, zip(*scores))}


def best_head(scores: Float[torch.Tensor, "layer head sequence"]) -> Head:
    """(layer, head) with the largest mean score; NaN is never the largest. Raises CourseError if there is nothing else."""
    means = scores.mean(-1)
    if means.isnan().all():
        raise CourseError("every score is NaN, so no head is the best: did the model give numbers?")
    return divmod(int(means.nan_to_num(nan=-torch.inf).argmax()), scores.shape[1])


# ---------------------------------------------------------------- taking parts away

def replacement(values: Float[torch.Tensor, "sequence position width"], how: str) -> torch.Tensor:
    """What is written in the place of an activation, of the same shape.

    mean of others: of the other sequences, at the same position (masking's "mean" is over all positions of a data set).
    resample: of the next sequence (the last takes the first). first copy: in the second half, the value at the token's
    first occurrence. Raises CourseError if there are no others.
    """
    if how not in ABLATIONS:
        raise CourseError(f"no ablation is called {how!r}; choose one of: {', '.join(ABLATIONS)}")
    if len(values) < 2 and how in ("mean of others", "resample"):
        raise CourseError(f"the ablation {how!r} takes values of other sequences: give at least 2, not {len(values)}")
    if how == "first copy":
        period = values.shape[1] // 2
        return torch.cat([values[:, :period + 1], values[:, 1:period + 1]], 1)
    if how == "mean of others":
        return (values.sum(0) - values) / (len(values) - 1)
    return values.roll(-1, 0) if how == "resample" else torch.zeros_like(values)


def ablate(model, prompts: Prompts, sites: Sequence[Site], how: str) -> list[Do]:
    """Interventions that take the activations at `sites` (all positions) away together."""
    _, values = read(model, prompts, sites)
    return [Do(site, replacement(values[site], how)) for site in sites]


def knock_out(model, prompts: Prompts, groups: Sequence[Sequence[Head]], how: str = "mean of others", *,
              part: str = "second half", progress: str | None = None) -> Float[torch.Tensor, "group sequence"]:
    """Loss of one part (nats per token) when all heads of a group lose their output together; [] is the plain run.

    Raises CourseError for a head that the model does not have.
    """
    heads = sorted({tuple(head) for group in groups for head in group})
    gone = dict(zip(heads, ablate(model, prompts, [Site("z", layer, None, head) for layer, head in heads], how)))
    return torch.stack([predictions(model, prompts, [gone[tuple(head)] for head in group]).loss(part)
                        for group in tqdm(groups, desc=progress, disable=progress is None, leave=False)])


def random_heads(model, size: int, sets: int, *, exclude: Iterable[Head] = (), seed: int = 0) -> list[list[Head]]:
    """`sets` random groups of `size` different heads, none of them in `exclude`: the control of a knock-out."""
    (layers, heads), spared = shape_of(model), set(exclude)
    left = [(layer, head) for layer in range(layers) for head in range(heads) if (layer, head) not in spared]
    if not 1 <= size <= len(left):
        raise CourseError(f"no groups of {size} can be drawn: {len(left)} of {layers * heads} heads are left, so "
                          + (f"choose 1 to {len(left)}" if left else "exclude fewer"))
    draw = random.Random(seed).sample
    return [sorted(draw(left, size)) for _ in range(sets)]


def mlp_map(model, prompts: Prompts, how: str, *, batch_size: int = 128,
            progress: bool = False) -> Float[torch.Tensor, "row position sequence"]:
    """By how many nats the loss on the very last token rises when one MLP is taken away at one position.

    Rows: every layer, then all layers together. Positions 0 to 2 S - 1; at the last one the last token is predicted.
    "first copy" replaces nothing in the first half: those cells are NaN.
    """
    period, layers = period_of(prompts), range(shape_of(model)[0])
    cut = Prompts(prompts.tokens[:, :-1], prompts.mask[:, :-1], prompts.ends - 1, tuple(r[:-1] for r in prompts.labels))
    new = [do.value for do in ablate(model, prompts, [Site("mlp_out", layer) for layer in layers], how)]
    positions = range(period + 1 if how == "first copy" else 0, 2 * period)
    rows = [[Do(Site("mlp_out", layer, position), new[layer][:, position]) for layer in chosen]
            for chosen in [*([layer] for layer in layers), layers] for position in positions]
    found = sweep(model, cut, [[], *rows], LogProbability(prompts.tokens[:, -1]), batch_size=batch_size,
                  progress=f"MLPs, {how}" if progress else None)
    lost = (found[0] - found[1:]).view(len(layers) + 1, len(positions), len(prompts))
    return torch.nn.functional.pad(lost, (0, 0, positions.start, 0), value=torch.nan)


# ---------------------------------------------------------------- the circuit by its weights

@dataclass(frozen=True)
class HeadWeights:
    """Matrices that act on row vectors from the right; `size` is the width of a head."""
    q: Float[torch.Tensor, "layer head width size"]
    k: Float[torch.Tensor, "layer head width size"]
    v: Float[torch.Tensor, "layer head width size"]
    o: Float[torch.Tensor, "layer head size width"]


@torch.no_grad()
def head_weights(model) -> HeadWeights:
    """Weights of all heads, with the fixed part of the norm in front of each block multiplied into q, k and v.

    Fixed are its scale and, for a layer norm, that it takes away the mean; its division and all biases are left out. What a
    layer norm takes away is left out of o as well, as nobody reads it.
    Keys and values that heads share are repeated. Warns if positions act inside the heads (rotary), which the matrices
    do not show. Raises CourseError for a model that is no bridge.
    """
    if not is_bridge(model):
        raise CourseError("weights of heads are read from a TransformerBridge: load it with utils.models.load_model")
    cfg, heads = model.cfg, shape_of(model)[1]
    if cfg.positional_embedding_type != "standard":
        warn(f"positions act inside the heads of this model ({cfg.positional_embedding_type}): composition "
             "scores and circuits by weights leave that out, so do not trust them")
    scale = torch.stack([block.ln1.weight for block in model.blocks])[:, None, :, None] + bool(cfg.rmsnorm_uses_offset)

    def reading(weights):
        weights = scale * weights.repeat_interleave(heads // weights.shape[1], 1)
        return weights if cfg.uses_rms_norm else weights - weights.mean(2, keepdim=True)
    written = model.W_O.detach()
    written = written if cfg.uses_rms_norm else written - written.mean(-1, keepdim=True)
    return HeadWeights(reading(model.W_Q), reading(model.W_K), reading(model.W_V), written)


def random_weights(like: HeadWeights, *, seed: int = 0) -> HeadWeights:
    """Gaussian matrices of the same shapes: the control of a composition score."""
    generator = torch.Generator().manual_seed(seed)
    return HeadWeights(*(torch.randn(w.shape, generator=generator) for w in (like.q, like.k, like.v, like.o)))


def composition_scores(weights: HeadWeights, kind: str) -> Float[torch.Tensor, "layer head layer head"]:
    """How strongly each later head reads what each earlier one writes, [earlier layer, head, later layer, head].

    `kind` is "q", "k" or "v": through its queries, keys or values. The Frobenius norm of the product of both matrices
    over the product of their norms, from 0 to 1 (Elhage et al. 2021); NaN where the first is not in an earlier layer.
    """
    if kind not in ("q", "k", "v"):
        raise CourseError(f"composition is by 'q', 'k' or 'v', not {kind!r}")
    # V O (K Q^T): tall V and Q act on norms like the small triangles of their QR decompositions

    def triangle(tall):
        return torch.linalg.qr(tall.cpu(), mode="r").R

    def norm(matrices):
        return matrices.norm(dim=(-2, -1))

    outer = {"q": weights.k, "k": weights.q, "v": weights.o.mT}[kind]
    writes = triangle(weights.v) @ weights.o.cpu()                                          # [layer, head, size, width]
    reads = getattr(weights, kind).cpu() @ triangle(outer).mT                               # [layer, head, width, size]
    scores = torch.full(2 * writes.shape[:2], torch.nan)
    for late in range(1, len(writes)):
        early = writes[:late, :, None]
        scores[:late, :, late] = norm(early @ reads[late]) / norm(early) / norm(reads[late])
    return scores


@torch.no_grad()
def token_vectors(model, *, mlp: bool = False, divide: bool = False) -> Float[torch.Tensor, "token width"]:
    """A vector in the stream for every token of the vocabulary, without its position.

    Its embedding; `mlp` adds what the MLP of block 0 makes of it (without attention); `divide` divides as a norm would.
    Raises CourseError, with `mlp`, for a model whose MLPs cannot be run by themselves.
    """
    vectors = token_embeddings(model).clone()
    if mlp:
        added = mlp_alone(model, 0)
        for rows in vectors.split(2048):                                 # views: the sum is written into `vectors`
            rows += added(rows)
    if divide:
        centred = vectors if model.cfg.uses_rms_norm else vectors - vectors.mean(-1, keepdim=True)
        vectors = centred / (centred.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    return vectors


def induction_circuit(weights: HeadWeights, previous: Head, induction: Head,
                      vectors: Float[torch.Tensor, "token width"]) -> FactoredMatrix:
    """[query token, key token]: how much the induction head, at a query token, wants a place *after* the key token.

    The query is read from the token itself, the key from what the previous-token head wrote about the token before.
    Raises CourseError if the previous-token head is not in an earlier layer.
    """
    from transformer_lens import FactoredMatrix
    if not previous[0] < induction[0]:
        raise CourseError("head {}.{} cannot feed {}.{}: it must be in an earlier layer".format(*previous, *induction))
    keys = vectors @ weights.v[previous] @ weights.o[previous] @ weights.k[induction]
    return FactoredMatrix(vectors @ weights.q[induction], keys.mT)


def top1(circuit: FactoredMatrix, tokens: Int[torch.Tensor, "token"] | None = None, *,
         batch_size: int = 1024) -> Bool[torch.Tensor, "token"]:
    """For each query token (None: all), whether it wants itself most among the whole vocabulary."""
    tokens = torch.arange(circuit.shape[0]) if tokens is None else tokens
    return torch.cat([(circuit.A[rows] @ circuit.B).argmax(-1).cpu() == rows for rows in tokens.split(batch_size)])


check_arguments(globals())

"""What the shipped language model can do, measured on held-out data: the numbers of its model card and of its tests.

Each function returns a flat dictionary of numbers. `everything` joins them; `python -m utils.training.course_measure FOLDER`
prints them. Nothing here is used by the lessons, which compute their own.
"""
from __future__ import annotations

import json
import random
import sys
from typing import Sequence

import torch

from .. import decoding, patching, tasks
from ..engine import Do, Each, Site, at_end, read, run, sweep
from ..metrics import LogitDifference, Probability, bootstrap, recovery_interval
from ..models import answer_ids, differing_positions, encode, load_model, shape_of
from ..tasks import templates
from . import report

FIXED = dict(opening="When {A} and {B} went to the {P},", clause="{S} gave {D} {O} to", determiner="a", place="store",
             thing="drink")


# ---------------------------------------------------------------- indirect objects

def ioi_accuracy(model, split: str, n: int = 300, seed: int = 1) -> dict[str, float]:
    pairs = tasks.ioi_dataset(n, seed=seed, split=split)
    outcome = LogitDifference(answer_ids(model, [p.answer for p in pairs]), answer_ids(model, [p.wrong for p in pairs]))
    everyone = torch.arange(n)
    clean = outcome(at_end(model, encode(model, [p.clean for p in pairs])), everyone)
    corrupted = outcome(at_end(model, encode(model, [p.corrupted for p in pairs])), everyone)
    return {f"ioi_{split}_accuracy": (clean > 0).float().mean().item(), f"ioi_{split}_clean": clean.mean().item(),
            f"ioi_{split}_corrupted": corrupted.mean().item()}


def fixed_pairs(model, n: int = 48, seed: int = 2):
    """Held-out pairs in one template: (clean, corrupted, outcome, position of S2)."""
    pairs = tasks.ioi_dataset(n, seed=seed, order="ABBA", **FIXED)
    clean, corrupted = encode(model, [p.clean for p in pairs]), encode(model, [p.corrupted for p in pairs])
    outcome = LogitDifference(answer_ids(model, [p.answer for p in pairs]), answer_ids(model, [p.wrong for p in pairs]))
    return clean, corrupted, outcome, int(differing_positions(clean, corrupted)[0])


def ioi_map(model, n: int = 48) -> dict[str, float]:
    clean, corrupted, outcome, second = fixed_pairs(model, n)
    residual = patching.residual_map(model, clean, corrupted, outcome).effect
    layers = len(residual)
    early = residual[: -(-layers // 3)]
    heads = patching.head_map(model, clean, corrupted, outcome, positions="end").effect.flatten()
    top = heads.topk(3).values.sum()
    return {"map_s2_early": early[:, second].min().item(), "map_end_early": early[:, -1].abs().max().item(),
            "map_end_last": residual[-1, -1].item(), "map_top3_heads": top.item(),
            "map_top3_share": (top / heads.abs().sum()).item(),
            **{f"map_s2_layer{i}": residual[i, second].item() for i in range(layers)},
            **{f"map_end_layer{i}": residual[i, -1].item() for i in range(layers)}}


def three_names(model, n: int = 300) -> dict[str, float]:
    prompts = tasks.three_name_dataset(n, seed=3)
    logits = at_end(model, encode(model, [p.prompt for p in prompts]))
    own = logits.gather(-1, answer_ids(model, [p.answer for p in prompts])[:, None])
    others = torch.cat([logits.gather(-1, answer_ids(model, [p.wrong[i] for p in prompts])[:, None]) for i in (0, 1)], 1)
    return {"three_names_accuracy": (own > others).all(1).float().mean().item(),
            "three_names_margin": (own.squeeze() - others.max(1).values).mean().item()}


def s_inhibition(model, n: int = 32) -> dict[str, float | str]:
    """Does a head that looks at S2 steer the queries of the heads that look at IO and write it (Wang et al. 2022)?

    Name movers: attention from END to IO >= .3, and >= .05 of the total effect on the path to the logits. Candidates: every
    head below them; their effect is path patching candidate -> queries of the movers, as a share of the total effect.
    """
    clean, corrupted, outcome, second = fixed_pairs(model, n)
    layers = shape_of(model)[0]
    looks = torch.stack([pattern(model, clean.tokens, layer)[:, :, -1].mean(0) for layer in range(layers)])
    to_io = int((clean.tokens[0] == outcome.correct[0]).nonzero()[0])
    heads = [tuple(head) for head in (looks[..., to_io] >= 0.3).nonzero().tolist()]
    direct = patching.path_map(model, clean, corrupted, outcome, senders=heads).effect
    movers = [head for head in heads if direct[head] >= 0.05]
    if not movers:
        return {"movers": "none", "s_inhibition_head": "none", "s_inhibition_effect": 0.0, "s_inhibition_low": 0.0,
                "s_inhibition_high": 0.0, "s_inhibition_attention_to_s2": 0.0}
    result = patching.path_map(model, clean, corrupted, outcome, [patching.Receiver("q", *mover) for mover in movers])
    layer, head = divmod(result.effect.nan_to_num(0.0).flatten().argmax().item(), looks.shape[1])
    interval = recovery_interval(result.patched[layer, head], result.base, result.source)
    return {"movers": ", ".join(f"{l}.{h}" for l, h in movers), "s_inhibition_head": f"{layer}.{head}",
            "s_inhibition_effect": float(interval.estimate), "s_inhibition_low": float(interval.low),
            "s_inhibition_high": float(interval.high), "s_inhibition_attention_to_s2": looks[layer, head, second].item()}


def pattern(model, tokens: torch.Tensor, layer: int) -> torch.Tensor:
    """Attention weights of one layer, [prompt, head, query, key]."""
    name = f"blocks.{layer}.attn.hook_pattern"
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=name, prepend_bos=False)
    return cache[name]


# ---------------------------------------------------------------- repeated tokens

def induction(model, n: int = 32, period: int = 50) -> dict[str, float | str]:
    tokens = tasks.generate_repeated_tokens(n, period, model.cfg.d_vocab, seed=4)
    logits = run(model, tokens)[:, :-1]
    target = tokens[:, 1:]
    log_probability = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    right = (logits.argmax(-1) == target).float()
    second = slice(period, 2 * period)  # its first token can only be guessed, the others can be copied
    patterns = torch.stack([pattern(model, tokens, layer) for layer in range(shape_of(model)[0])])
    query = torch.arange(period + 1, 2 * period)
    stripe = patterns[..., query, query + 1 - period].mean((1, 3))
    every = torch.arange(1, 2 * period + 1)
    previous = patterns[..., every, every - 1].mean((1, 3))

    def name(scores):
        return "{}.{}".format(*divmod(scores.flatten().argmax().item(), scores.shape[1]))

    return {"first_half_accuracy": right[:, :period].mean().item(), "second_half_accuracy": right[:, second].mean().item(),
            "first_half_log_prob": log_probability[:, :period].mean().item(),
            "second_half_log_prob": log_probability[:, second].mean().item(),
            "induction_stripe": stripe.max().item(), "induction_head": name(stripe),
            "previous_token_score": previous.max().item(), "previous_token_head": name(previous)}


# ---------------------------------------------------------------- facts

def top1(model, facts: Sequence[tasks.Fact]) -> torch.Tensor:
    """Per fact, whether the answer is the top token, [fact]."""
    right = [at_end(model, encode(model, [f.prompt for f in facts[i:i + 128]])).argmax(-1)
             == answer_ids(model, [f.answer for f in facts[i:i + 128]]) for i in range(0, len(facts), 128)]
    return torch.cat(right).float()


def facts(model) -> dict[str, float]:
    sets = {"capital_questions": tasks.capital_questions(),
            "capital_questions_held_out": [f for f in tasks.capital_questions() if f.held_out],
            **{f"country_{r}_held_out": [f for f in tasks.country_facts(r) if f.held_out] for r in templates.COUNTRY_PATTERNS}}
    for name, make in (("landmarks", tasks.landmark_facts), ("people", tasks.people_facts)):
        for invented in (False, True):
            sets[f"{'invented_' * invented}{name}_held_out"] = [f for f in make(invented) if f.held_out]
        sets[f"{name}_whole_patterns"] = make(whole_patterns=True)
    sets |= {f"question_{r}": tasks.question_facts(r) for r in ("past", "uppercase", "city")}
    return {name: top1(model, items).mean().item() for name, items in sets.items()}


def early_decoding(model) -> dict[str, float]:
    """On the two-shot capital question, for countries answered correctly."""
    items = [f for f, right in zip(tasks.capital_questions(), top1(model, tasks.capital_questions())) if right]
    prompts, answers = encode(model, [f.prompt for f in items]), answer_ids(model, [f.answer for f in items])
    states = decoding.decode_layers(model, prompts)
    top = (states.argmax(-1) == answers).float().mean(1)
    shown, everywhere = decoding.first_shown(model, prompts, answers), Each.of(prompts.ends)
    track, lost = decoding.steps(model, prompts), {"subtracted": [], "left_out": [], "layer_left_out": []}
    for step in shown.unique().tolist():
        kind, layer = track.site(step)
        both = [Do(Site(k, layer, everywhere), 0.0) for k in decoding.UPDATES]
        for name, logits in (("subtracted", decoding.subtract_update(model, prompts, kind, layer)),
                             ("left_out", decoding.without_update(model, prompts, kind, layer)),
                             ("layer_left_out", at_end(model, prompts, both))):
            lost[name].append((logits.argmax(-1) != answers)[shown == step])
    quarter = shape_of(model)[0] // 4
    subject = answer_ids(model, [" " + f.subject.split()[-1] for f in items])
    return {"early_top1_first_quarter": top[: quarter + 1].max().item(), "early_top1_last": top[-1].item(),
            **{f"early_lost_{name}": torch.cat(parts).float().mean().item() for name, parts in lost.items()},
            "early_subject_top1_somewhere": (states.argmax(-1) == subject).any(0).float().mean().item(),
            **{f"early_top1_state{i}": v for i, v in enumerate(top.tolist())},
            **{f"early_first_shown_{track.labels[s].replace(' ', '')}": (shown == s).float().mean().item()
               for s in shown.unique().tolist()}}


# ---------------------------------------------------------------- causal tracing

GROUPS = ("first subject token", "middle subject tokens", "last subject token", "first token after", "last token")


def subject_positions(model, fact: tasks.Fact) -> list[int]:
    """Positions of the subject's tokens (the space before a word belongs to its first token)."""
    start = fact.prompt.index(fact.subject)

    def length(text):
        return encode(model, [text], warn=False).tokens.shape[1] if text else 1

    return list(range(length(fact.prompt[:start].rstrip()), length(fact.prompt[:start] + fact.subject)))


def trace(model, fact: tasks.Fact, noise: float, samples: int, generator: torch.Generator) -> torch.Tensor | None:
    """Indirect effect of restoring one state, in probability, averaged over noise samples: [layer, group] (Meng et al. 2022).

    The subject's embeddings get gaussian noise; the state leaving each block is restored at each position. None if the
    model does not know the fact or the noise hardly matters (total effect below .2).
    """
    one = encode(model, [fact.prompt])
    width = one.tokens.shape[1]
    subject = subject_positions(model, fact)
    before = subject[-1] + 1
    prompts = encode(model, [fact.prompt] * samples, warn=False)
    layers, outcome = shape_of(model)[0], Probability(answer_ids(model, [fact.answer]).repeat(samples))
    sites = [Site("resid_post", layer) for layer in range(layers)]
    embed = Site("embed", None, tuple(subject))
    logits, clean = read(model, prompts, [*sites, embed])
    values = clean[embed] + noise * torch.randn(clean[embed].shape, generator=generator)
    corrupt = Do(embed, values)
    places = sorted({*subject, before, width - 1})
    rows = [[corrupt]] + [[corrupt, Do(Site("resid_post", l, p), clean[sites[l]][:, p])] for l in range(layers) for p in places]
    result = sweep(model, prompts, rows, outcome).mean(1)
    high = outcome(logits[:, -1], torch.arange(samples))[0].item()
    if logits[0, -1].argmax() != outcome.answer[0] or high - result[0] < 0.2:
        return None
    effect = (result[1:] - result[0]).view(layers, len(places))
    groups = [[places.index(p) for p in group] for group in (subject[:1], subject[1:-1], subject[-1:], [before], [width - 1])]
    return torch.stack([effect[:, g].mean(1) if g else torch.full((layers,), float("nan")) for g in groups], 1)


def average_trace(model, items: Sequence[tasks.Fact], n: int, samples: int = 4, seed: int = 5) -> torch.Tensor:
    """Traces of the first `n` usable facts in a random order, [fact, layer, group]."""
    items, found = list(items), []
    random.Random(seed).shuffle(items)
    generator = torch.Generator().manual_seed(seed)
    noise = 3 * model.embed.weight.std().item()
    for fact in items:
        result = trace(model, fact, noise, samples, generator)
        if result is not None:
            found.append(result)
        if len(found) == n:
            break
    return torch.stack(found)


def rome(model, n: int = 30) -> dict[str, float]:
    def several(items):
        return [f for f in items if f.prompt.startswith("The " + f.subject) or f.prompt.startswith(f.subject)]

    shared = several(tasks.landmark_facts(True)) + several(tasks.people_facts(True))
    numbers = {}
    for name, items in (("real", several(tasks.landmark_facts())), ("shared", shared)):
        traces = average_trace(model, items, n)
        mean, third = traces.nanmean(0), -(-traces.shape[1] // 3)
        numbers |= {f"rome_{name}_facts": float(len(traces)), f"rome_{name}_late_peak": mean[:-1, 4].max().item(),
                    f"rome_{name}_late_early": mean[:third, 4].max().item(),
                    f"rome_{name}_subject_peak": mean[:, :3].nan_to_num(0.0).max().item(),
                    f"rome_{name}_last_subject_peak": mean[:, 2].max().item()}
        peak = mean[:, 2].argmax()
        interval = bootstrap(traces[:, peak, 2])
        numbers |= {f"rome_{name}_last_subject_low": float(interval.low), f"rome_{name}_last_subject_high": float(interval.high)}
        numbers |= {f"rome_{name}_L{l}": " ".join(f"{round(v, 2) + 0.0:.2f}" for v in mean[l].tolist()) for l in range(len(mean))}
    return numbers


# ---------------------------------------------------------------- what the model must reach

THRESHOLDS: dict[str, report.Threshold] = {
    "ioi_held_out_pairs_accuracy": (">=", 0.99), "ioi_held_out_templates_accuracy": (">=", 0.95),
    "ioi_held_out_pairs_clean": (">=", 5.0), "ioi_held_out_pairs_corrupted": ("<=", -5.0),
    "map_s2_early": (">=", 0.9), "map_end_early": ("<=", 0.1), "map_end_last": (">=", 0.9),
    "map_top3_share": (">=", 0.5),
    "first_half_accuracy": ("<=", 0.02), "second_half_accuracy": (">=", 0.95), "second_half_log_prob": (">=", -0.6),
    "induction_stripe": (">=", 0.75), "previous_token_score": (">=", 0.4),
    "capital_questions": (">=", 0.95), "capital_questions_held_out": (">=", 0.95),
    "landmarks_held_out": (">=", 0.9), "landmarks_whole_patterns": (">=", 0.9),
    "people_held_out": (">=", 0.9), "people_whole_patterns": (">=", 0.9),
    "early_top1_first_quarter": ("<=", 0.0), "early_top1_last": (">=", 1.0), "early_lost_left_out": (">=", 0.7),
    "rome_real_late_peak": (">=", 0.75), "rome_real_late_early": ("<=", 0.1), "rome_real_subject_peak": (">=", 0.35),
    "rome_shared_last_subject_peak": (">=", 0.3),
}


def reached(name: str, value: float) -> bool:
    """Whether a measured number meets its threshold."""
    return report.meets(value, THRESHOLDS[name])


def everything(model) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for split in tasks.SPLITS:
        numbers |= ioi_accuracy(model, split)
    for part in (ioi_map, three_names, s_inhibition, induction, facts, early_decoding, rome):
        numbers |= part(model)
    return report.rounded(numbers)


if __name__ == "__main__":
    print(json.dumps(everything(load_model(sys.argv[1] if len(sys.argv) > 1 else "course-gpt2")), indent=1))

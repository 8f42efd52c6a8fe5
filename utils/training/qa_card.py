"""What the shipped question-answering model can do, measured on held-out contexts, and its model card.

`measure` is computed again by the tests. What groups of MLP neurons are worth is measured by mean ablation
(`utils.masking`): by how much the log-probability of the right span falls without a group.
"""
from __future__ import annotations

import random
from dataclasses import replace
from typing import Callable

import torch

from ..engine import at_end
from ..masking import Groups, MaskingGame, standard_error
from ..models import shape_of
from ..tasks import Asked, Record, SpanLogProbability, SpanMatch, ask, exact_match, passages, pick_answers
from ..tasks.passages import SPLITS
from . import report

EACH = 250          # records of each split
MASKED = 100        # records for the masks
GROUPS = 8          # of MLP neurons in each layer
TOGETHER = (2, 4, 6)  # that many groups of a layer, from group 0 on, are also dropped at once
HELD_OUT = SPLITS[1:]
LABELS = {
    **{f"exact_{split}": f"exact match, {split.replace('held_out_', 'held-out ')}" for split in HELD_OUT},
    "exact_held_out": "exact match, all held-out records",
    "exact_made_up": "exact match, names of syllables that no list holds",
    "exact_eiffel": "exact match, the Eiffel Tower and the Statue of Liberty (true facts)",
    "exact_without_question": "control: the question removed, exact match",
    "exact_other_question": "control: another question on the same context, exact match with the first answer",
    "exact_guess": "control: a random value of the right sort from the context",
}
THRESHOLDS: dict[str, report.Threshold] = {
    **{f"exact_{split}": (">=", 0.9) for split in HELD_OUT}, "exact_held_out": (">=", 0.9),
    "exact_made_up": (">=", 0.8),
    "exact_eiffel": (">=", 0.85), "exact_without_question": ("<=", 0.3), "exact_other_question": ("<=", 0.1),
    "exact_guess": ("<=", 0.5),
}


def ask_records(model, records: list[Record]) -> Asked:
    return ask(model, [(r.question, r.context) for r in records], warn=False)


def answers(model, records: list[Record], size: int = 100) -> list[str]:
    found = []
    for start in range(0, len(records), size):
        asked = ask_records(model, records[start:start + size])
        found += [answer.text for answer in pick_answers(asked, at_end(model, asked.prompts))]
    return found


def exact(model, records: list[Record]) -> float:
    """Share of the records whose picked answer is the right one."""
    hits = [exact_match(answer, record.answer) for answer, record in zip(answers(model, records), records)]
    return sum(hits) / len(hits)


def made_up(n: int) -> list[Record]:
    rng, found = random.Random(6), []
    while len(found) < n:
        found += passages.questions(passages.passage(rng, "held_out_facts", made_up=1.0), rng, 2)
    return found[:n]


def accuracies(model) -> dict[str, float]:
    by_split = {split: passages.records(EACH, seed=5, split=split) for split in HELD_OUT}
    everything = [record for records in by_split.values() for record in records]
    numbers = {f"exact_{split}": exact(model, records) for split, records in by_split.items()}
    pairs = [(a, b) for a, b in zip(everything[::2], everything[1::2]) if not exact_match(a.answer, b.answer)]
    swapped = [replace(a, question=b.question) for a, b in pairs]
    return numbers | {
        "exact_held_out": sum(numbers.values()) / len(numbers),
        "exact_made_up": exact(model, made_up(EACH)), "exact_eiffel": exact(model, passages.eiffel_tower()),
        "exact_without_question": exact(model, [record.without_question() for record in everything]),
        "exact_other_question": exact(model, swapped),
        "exact_guess": sum(1 / (1 + len(record.rivals)) for record in everything) / len(everything)}


# ---------------------------------------------------------------- groups of neurons

def masked_records() -> list[Record]:
    return passages.records(MASKED, seed=8, split="held_out_facts")


def neurons(model) -> dict[str, float]:
    """What dropping MLP neurons costs: each of `GROUPS` in every layer, several at once, whole layers, and all of them.

    Falls of the log-probability of the right span (nats) and of exact match, with standard errors, by mean ablation.
    """
    records, layers = masked_records(), shape_of(model)[0]
    asked = ask_records(model, records)
    where = asked.tokens_of([record.span for record in records])
    parts = [Groups.contiguous(model, "mlp_post", GROUPS, layer) for layer in range(layers)]
    groups = Groups("mlp_post", tuple(group for part in parts for group in part.members), "contiguous in each layer")
    masks = {"none": [], **{f"L{i // GROUPS}G{i % GROUPS}": [i] for i in range(len(groups))},
             **{f"L{l}first{k}": range(l * GROUPS, l * GROUPS + k) for l in range(layers) for k in TOGETHER},
             **{f"layer{l}": range(l * GROUPS, (l + 1) * GROUPS) for l in range(layers)}, "all": range(len(groups))}
    outcomes = {"log_prob": SpanLogProbability(*where), "exact": SpanMatch(asked, *where)}
    game = MaskingGame(model, asked.prompts, outcomes["log_prob"], groups, ablation="mean")
    numbers, whole = {}, {}
    for name, dropped in masks.items():
        logits = at_end(model, asked.prompts, game.interventions(groups.drop(dropped)) if dropped else [])
        for kind, outcome in outcomes.items():
            values = outcome(logits, torch.arange(len(asked)))
            whole.setdefault(kind, values)  # nothing is dropped first
            numbers[f"{kind}_without_{name}"] = (whole[kind] - values).mean().item()
            numbers[f"{kind}_without_{name}_error"] = standard_error((whole[kind] - values)[None]).item()
    for kind, values in whole.items():
        numbers[f"masked_records_{kind}"] = values.mean().item()
    return numbers | concentration(numbers, layers)


def concentration(numbers: dict[str, float], layers: int) -> dict[str, float]:
    """How the falls of log-probability are spread over the groups: those below 0 count as 0."""
    falls = [numbers[f"log_prob_without_L{l}G{g}"] for l in range(layers) for g in range(GROUPS)]
    falls = torch.tensor(falls).clamp(min=0)
    shares = falls.sort(descending=True).values / falls.sum()
    return {"groups_top_share": shares[0].item(), "groups_top3_share": shares[:3].sum().item()}


def measure(model) -> dict[str, float]:
    return report.rounded(accuracies(model) | neurons(model))


# ---------------------------------------------------------------- the card

def group_table(numbers: dict[str, float], layers: int) -> str:
    """Fall of the log-probability of the right span without each group, with standard errors, and without a layer."""
    def fall(name):
        return "{:.2f} ± {:.2f}".format(*(numbers[f"log_prob_without_{name}{end}"] for end in ("", "_error")))

    def row(l):
        return " | ".join([str(l), *(fall(f"L{l}G{g}") for g in range(GROUPS)), fall(f"layer{l}")])

    rows = [f"| {row(l)} |" for l in range(layers)]
    head = f"| layer | {' | '.join(f'group {g}' for g in range(GROUPS))} | all |"
    return "\n".join([head, "|---|" + "---|" * (GROUPS + 1), *rows])


def together_table(left: Callable[[str], str], layers: int) -> str:
    """Exact match with several groups of a layer dropped at once."""
    def names(l):
        return [*(f"L{l}first{k}" for k in TOGETHER), f"layer{l}"]

    rows = [f"| {l} | {' | '.join(map(left, names(l)))} |" for l in range(layers)]
    head = f"| layer | {' | '.join(f'groups 0 to {k - 1}' for k in TOGETHER)} | all {GROUPS} |"
    return "\n".join([head, "|---|" + "---|" * (len(TOGETHER) + 1), *rows])


def text(numbers: dict[str, float], how: dict[str, object], shape: tuple[int, int, int]) -> str:
    """The model card. shape: layers, heads, width."""
    layers, heads, width = shape
    return f"""# qa-bert

A BERT for question answering (`BertForQuestionAnswering`) with {layers} layers, {heads} heads and width {width}, float16, lower-case WordPiece, trained
from scratch for the lessons of this course. It marks the answer to a question in a context of a few short sentences about people,
buildings and things. It knows no facts and only the words in `words.txt`: do not use it for anything but the lessons.

Made by `python -m utils.training.qa_bert` ({report.settings(how)}) on one CPU core. Contexts and questions come from
`utils.tasks.passages`: the people, buildings and things are **invented**, the cities exist. Muon for the hidden matrices, AdamW for the rest.
One name in ten has a word of random syllables, so that names it never saw can be answers too.

## Choices that shape what you find in it

Which sort of value is asked for was learned at once; *whose* value, not within 1,800 steps, until these were changed:
- *Growing*: two layers first learn, in 1,000 steps, plain contexts (one fact of each of two subjects, the same sort of fact, so that nothing but the name
  helps) and an exercise, to find the name in the question. Then two more layers join, and full contexts.
- *First weights* with which a token looks at its like and at its neighbours: positions start as random waves, keys as a copy of the queries.
  They are trained like all others; the exported model is an ordinary BERT.

## Measured on held-out data

{report.table(LABELS, numbers, THRESHOLDS)}

{EACH} records of each split. Held-out facts: what is said of whom was never said in training. Held-out sentences and questions: each sort of
fact is told, or asked for, in a sentence that training never showed, about held-out facts too. A picked answer is the best span that lies in the
context and does not end before it starts.

## What groups of MLP neurons are worth

{_worth_of_groups(numbers, layers, width)}

All numbers: `measured.json`. They are computed again by the tests.
"""


def _worth_of_groups(numbers: dict[str, float], layers: int, width: int) -> str:
    """What the exact matches and the log-probability lose without groups of neurons, and without all of a layer."""
    def left(name: str) -> str:
        return f"{numbers['masked_records_exact'] - numbers[f'exact_without_{name}']:.2f}"

    return f"""The {4 * width} neurons of each layer in {GROUPS} groups of neighbours; one group is set to its mean over the data, on {MASKED} held-out records. Fall of the
log-probability of the right span (nats, ± standard error); the whole model has {numbers['masked_records_log_prob']:.2f}.

{group_table(numbers, layers)}

A single group costs little, about as much as its standard error; all groups of a layer together can cost everything: the groups back each
other up, and leaving out one at a time does not show what they are worth. Exact match ({left('none')} with nothing masked):

{together_table(left, layers)}

Without the MLP neurons of every layer it is {left('all')}. The largest of the falls in the first table is {numbers['groups_top_share']:.0%} of their sum, the largest
three {numbers['groups_top3_share']:.0%}; with falls as small as their errors, this says little about how concentrated the work is."""

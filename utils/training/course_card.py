"""The model card of the shipped language model: `measured.json` and `README.md` beside the weights.

`python -m utils.training.course_card FOLDER OTHER ...` puts the numbers of other training runs (with other seeds) beside those of
the model in FOLDER; each folder holds the `measured.json` that the recipe wrote.
"""
from __future__ import annotations

import sys
from pathlib import Path

from . import course_measure, report

LABELS = {
    "ioi_held_out_pairs_accuracy": "IOI, held-out name pairs: logit(IO) > logit(S)",
    "ioi_held_out_templates_accuracy": "IOI, held-out templates: logit(IO) > logit(S)",
    "ioi_held_out_pairs_clean": "IOI, mean logit difference, clean",
    "ioi_held_out_pairs_corrupted": "IOI, mean logit difference, corrupted",
    "map_s2_early": "residual map: S2, least value in the first third of the layers",
    "map_end_early": "residual map: END, largest value in the first third of the layers",
    "map_end_last": "residual map: END, entering the last layer",
    "map_top3_share": "heads at END: share of the top three in the sum of all absolute effects",
    "first_half_accuracy": "repeated random tokens, first half, accuracy",
    "second_half_accuracy": "repeated random tokens, second half, accuracy",
    "second_half_log_prob": "repeated random tokens, second half, log-probability per token (nats)",
    "induction_stripe": "best induction head, mean attention on its stripe",
    "previous_token_score": "best previous-token head, mean attention on the token before",
    "capital_questions": "capitals in the two-shot question, all countries",
    "capital_questions_held_out": "capitals in the two-shot question, held-out countries",
    "landmarks_held_out": "landmarks, held-out combinations of landmark and pattern",
    "landmarks_whole_patterns": "landmarks, patterns never seen",
    "people_held_out": "people, held-out combinations",
    "people_whole_patterns": "people, patterns never seen",
    "early_top1_first_quarter": "early decoding: answer is top token in the first quarter of the layers",
    "early_top1_last": "early decoding: answer is top token at the end",
    "early_lost_left_out": "early decoding: answer lost when the update that first shows it is taken out of the stream",
    "rome_real_late_peak": "causal trace, true landmarks: late site at the last token, indirect effect (probability)",
    "rome_real_late_early": "causal trace, true landmarks: last token in the early layers",
    "rome_real_subject_peak": "causal trace, true landmarks: best subject token",
    "rome_shared_last_subject_peak": "causal trace, subjects that share words: last subject token",
}


def write(folder: Path, how: dict[str, object]) -> dict[str, float | str]:
    """Measure the model in `folder` and write `measured.json` and `README.md` there. `how`: seed, steps and the like."""
    numbers = course_measure.everything(course_measure.load_model(str(folder)))
    report.write(folder, how, numbers, text(numbers, how, report.read_seeds(folder)))
    return numbers


def text(numbers: dict[str, float | str], how: dict[str, object], seeds: dict[str, dict[str, float]] = {}) -> str:
    """The model card. how: the settings of the run; seeds: the numbers of runs with other seeds."""
    return f"""# course-gpt2

A GPT-2 with 8 layers, 5 heads and width 160 (2.9 million parameters, float16), trained from scratch on generated text for the
lessons of this course. It knows a few hundred facts, some of them invented, and nothing else: do not use it for
anything but the lessons. `words.txt` lists every word it ever saw.

Made by `python -m utils.training.course_gpt2` ({report.settings(how)}) on two CPU cores. The
corpus is generated from the tables in `utils/data` and the patterns in `utils/tasks/templates.py`. Landmarks, people and countries are
true; `invented_landmarks` and `invented_people` are made up, so that subjects share their words.

## Choices that shape what you find in it

- A *locality penalty* on attention in the two lowest layers (it falls to nearly nothing early in training). In trials without
  it most tasks were solved in the first layer.
- *Growing*: four layers learned short captions ("The Space Needle Seattle.") and repeated tokens first, then two more layers
  joined and all other documents, at last two more. In a trial at full depth from the start, the last two layers did everything.
- Muon for the hidden matrices, AdamW for the rest; rows of 128 tokens, 16 rows a step.

## Measured on held-out data

{report.table(LABELS, numbers, course_measure.THRESHOLDS)}

Indirect effects are differences of probability, averaged over {numbers['rome_real_facts']:.0f} facts; the last subject token of
subjects that share words has the 95 % interval [{numbers['rome_shared_last_subject_low']:.2f}, {numbers['rome_shared_last_subject_high']:.2f}].
Three heads at END together recover {numbers['map_top3_heads']:.2f} of the effect when their single effects are added.

## Reported without a threshold

{_without_threshold(numbers)}
{report.seed_table(seeds, LABELS, course_measure.THRESHOLDS)}
All numbers, layer by layer: `measured.json`. They are computed again by the tests.
"""


def _without_threshold(numbers: dict[str, float | str]) -> str:
    """A list of what was measured and is not required."""
    exists = numbers["s_inhibition_low"] >= 0.05 and numbers["s_inhibition_attention_to_s2"] >= 0.3
    interval = "{s_inhibition_effect:.3f} [{s_inhibition_low:.3f}, {s_inhibition_high:.3f}]".format(**numbers)
    return f"""- Three names, two of which give: the third is preferred to both others in {numbers['three_names_accuracy']:.1%} of prompts (mean margin
  {numbers['three_names_margin']:.1f} logits).
- S-inhibition, tested by path patching into the queries of the name movers ({numbers['movers']}: they look from END to IO and
  carry effect straight to the logits): the strongest candidate is {numbers['s_inhibition_head']}, effect {interval} of the total, attention from END to
  S2 {numbers['s_inhibition_attention_to_s2']:.2f}. By the criterion (lower end >= .05, attention >= .3) such a head
  {'exists' if exists else 'does **not** exist'}.
- The country itself is the top token of some middle state for {numbers['early_subject_top1_somewhere']:.1%} of the two-shot questions.
- The update that first shows the capital (attention or MLP of one layer) is taken out of the stream at the last position, and the
  later layers go on without it. Taking out both halves of that layer removes the answer for
  {numbers['early_lost_layer_left_out']:.1%}. Subtracting the update from the final state only, with everything later left as it was,
  removes it for {numbers['early_lost_subtracted']:.1%}: later layers have strengthened the answer by then.
- Induction head {numbers['induction_head']}, previous-token head {numbers['previous_token_head']}."""


if __name__ == "__main__":
    report.collect_seeds(Path(sys.argv[1]), [Path(other) for other in sys.argv[2:]], course_measure.THRESHOLDS, text)

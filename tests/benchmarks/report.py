"""What is written down: RESULTS.md."""
from __future__ import annotations

from statistics import median
from typing import Sequence

from .harness import TOLERANCE
from .jobs import GROWTH_BATCH, RATE_ROWS
from .measure import SLACK, Growth, Pair, growth_verdicts

NAMES = {"ours": "the course", "peer_lens": "TransformerLens", "peer_tracer": "causal-tracer",
         "peer_loop": "loop of forward passes", "peer_loop_plain": "loop on the Hugging Face model alone",
         "alignment.ours": "the course", "alignment.peer_pyvene": "pyvene",
         "alignment.peer_bridge": "TransformerLens, on a bridge",
         "alignment.peer_hooked": "TransformerLens, on the classifier", "alignment.peer_loop": "loop of forward passes"}
MODELS = {"gpt2-shape": "GPT-2 small's shape (12 layers, width 768, 12 heads, vocabulary 50257), random weights",
          "course-gpt2": "the shipped model (8 layers, width 160, 5 heads, vocabulary 2560)",
          "gpt2-classifier": "a classifier of GPT-2 small's shape (12 layers, width 768, 12 heads), random weights",
          "arithmetic-gpt2": "the shipped adder (6 layers, width 128, 4 heads)",
          "tiny-classifier": "a tiny classifier (4 layers, width 64, 4 heads), random weights; its times mean nothing",
          "tiny-shape": "a tiny GPT-2 (4 layers, width 64, 4 heads), random weights; its times mean nothing"}
_ROWS = ", ".join(map(str, RATE_ROWS))
NOTES = f"""## What is in the times, and what is not

- float32 on the processor. Each side is one process with the same number of threads; they take turns, one repetition
  each, and one waits while the other works. One warm-up before; loading the model is not in the times.
- Our times hold everything else a caller waits for: text to tokens, the clean and the corrupted run, reading the
  activations that are written, every check of the input, the map, its scaling. Only the engine's comparison of its fast
  path with the model itself, made once for a model and a length, falls into the warm-up.
- TransformerLens: text to tokens, the clean run with a cache of the activations needed and no others, the corrupted
  run, the map; gradients and progress bars off. It runs one forward pass for each cell. Maps of heads use its
  `generic_activation_patch` at the two positions only. It works on a bridge loaded as ours is, with eager attention.
- causal-tracer: one call of `calculate_hidden_flow`, batches of its default size, the model as
  `AutoModelForCausalLM` loads it. It runs one forward pass for each cell and noise sample, all of them in batches. Both
  sides draw the same noise. A window is at most the whole model.
- Masks: no tool masks groups, so the peer is a loop of one forward pass for each mask, with PyTorch hooks that multiply
  by 0, on the model as `load_model` gives it. On the Hugging Face model alone, without the bridge, the loop is faster: it is
  listed too, without a target. The course runs equal masks once; of 8 groups there are 256 different ones.
- The largest difference is that between the numbers of both sides, in any repetition, as a share of the range of the
  peer's numbers; up to {TOLERANCE:g} counts as the same.
- The matrix rate is that of float32 `torch.addmm` with matrices of the shapes involved, the unembedding among them, weighted
  by how much of the arithmetic each has: with {_ROWS} rows, for each shape the number that is fastest at a glance, and
  then as many products as our run has, after each repetition. Our operations are counted by the engine (`count_arithmetic`):
  matrix products only, so layer norms, activation functions and copies lower the share.
- Growth: residual maps of prompts of one template at a `batch_size` of {GROWTH_BATCH}, each number of prompts in a
  process of its own. The peak is the high-water mark of the process's resident memory, model included. "Linear" and
  "flat" allow {SLACK - 1:.0%} over the smallest number of prompts.
- Not measured: graphics processors, other families of models, prompts of unequal length, the time to load or install.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)] + [""]


def _times(seconds: Sequence[float]) -> str:
    """Median and, in brackets, range."""
    return f"{median(seconds):.3g} ({min(seconds):.3g} to {max(seconds):.3g})"


def _reached(verdicts: dict[str, bool]) -> str:
    if not verdicts:
        return "-"
    missed = [what for what, reached in verdicts.items() if not reached]
    return "**no**: " + ", ".join(missed) if missed else "yes"


def _comparison(pairs: Sequence[Pair]) -> list[str]:
    head = ["work", "threads", "the course, s", "peer, s", "peer", "ratio", "to reach", "reached",
            "largest difference"]
    return _table(head, [[
        pair.job.title, str(pair.threads), _times(pair.ours), _times(pair.peer), NAMES[pair.job.peer],
        f"{pair.ratio:.1f}", _to_reach(pair), _reached(pair.verdicts), _difference(pair)] for pair in pairs])


def _to_reach(pair: Pair) -> str:
    return ", ".join(what for what in pair.verdicts if what != "same numbers") or next(iter(pair.verdicts), "-")


def _difference(pair: Pair) -> str:
    return "IIA {:.3f} against {:.3f}".format(*pair.scores) if pair.scores else f"{pair.difference:.1e}"


def _arithmetic(pairs: Sequence[Pair]) -> list[str]:
    head = ["work", "threads", "operations, 10⁹", "a second, 10⁹", "the machine's own, 10⁹", "share"]
    return _table(head, [[
        pair.job.title, str(pair.threads), f"{pair.counted / 1e9:.4g}", f"{pair.counted / median(pair.ours) / 1e9:.4g}",
        *([f"{median(pair.rates) / 1e9:.4g}", f"{pair.share:.0%}"] if pair.rates else ["-", "-"])] for pair in pairs])


def _growth(rows: Sequence[Growth]) -> list[str]:
    head = ["prompts", "threads", "seconds", "seconds a prompt", "memory before, MB", "peak memory, MB"]
    table = _table(head, [[
        str(row.prompts), str(row.threads), _times(row.seconds), f"{median(row.seconds) / row.prompts:.3g}",
        f"{row.before / 1e6:.0f}", f"{row.peak / 1e6:.0f}"] for row in rows])
    verdicts = {threads: growth_verdicts([row for row in rows if row.threads == threads])
                for threads in dict.fromkeys(row.threads for row in rows)}
    return table + [f"Reached with {threads} thread{'s' * (threads > 1)} ({', '.join(found)}): {_reached(found)}."
                    for threads, found in verdicts.items()] + [""]


def write(pairs: Sequence[Pair], growth: Sequence[Growth], *, machine: str, versions: dict[str, dict[str, str]],
          date: str, command: str, title: str = "Benchmarks", notes: str = NOTES, arithmetic: bool = True) -> str:
    """The report as markdown. arithmetic: whether the operations of our runs are shown."""
    lines = [f"# {title}", "", f"Written by `{command}` on {date}. Do not edit: run it again.", "",
             f"- machine: {machine}"]
    lines += [f"- {NAMES[side]}: " + ", ".join(f"{name} {number}" for name, number in found.items())
              for side, found in versions.items()]
    lines += ["", "Times are medians of the repetitions, with the fastest and the slowest.", ""]
    for model in dict.fromkeys(pair.model for pair in pairs):
        own = [pair for pair in pairs if pair.model == model]
        lines += [f"## On {MODELS[model]}", "", *_comparison(own)]
        if arithmetic:
            lines += ["The arithmetic that remains in our runs:", "", *_arithmetic(own)]
    if growth:
        lines += [f"## Growth, on {MODELS[growth[0].model]}", "", *_growth(growth)]
    return "\n".join([*lines, notes])

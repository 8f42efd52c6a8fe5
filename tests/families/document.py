"""docs/families.md: the table of all cells, and below it each sentence with which something is refused."""
from pathlib import Path

from small_models import MODELS

from .capabilities import METHODS, SITES
from .cases import LOADS
from .table import FAMILIES, cell

PATH = Path(__file__).parents[2] / "docs" / "families.md"
HEADER = """# What holds on which model family

Written by `python -m tests.families`; a test fails when it is out of step. Each row is a small random model, saved with a
tokenizer and loaded as you would: as a `TransformerBridge` (`load_model`), or as the Hugging Face model that it is.

*equal*: what `utils` gives is what hand-written PyTorch hooks give on the Hugging Face model, one prompt at a time, to 1e-5
of the range of the result. *refused*: one sentence says why not; the number leads to it. *partly*: some of it is equal and
some refused. There is nothing else. What each activation means stands in `tests/reference.py`.
"""
TITLES = {"Activations: read, written in a run, written in a sweep": SITES, "Methods": METHODS}
LOADED = {"bridge": "bridge", "plain": "as it is"}


def document():
    """The text of the file."""
    sentences, parts = [], [HEADER]
    for title, capabilities in TITLES.items():
        columns = ["family", "class", "loaded", *capabilities]
        parts += [f"## {title}\n", line(*columns), line(*["---"] * len(columns))]
        parts += [line(name, MODELS[name][0], LOADED[load], *(entry(cell(name, load, c), sentences) for c in capabilities))
                  for name in FAMILIES for load in LOADS]
        parts.append("")
    parts += ["## Refusals\n", *(f"{n}. {sentence}" for n, sentence in enumerate(sentences, 1))]
    return "\n".join(parts) + "\n"


def line(*columns):
    return "| " + " | ".join(columns) + " |"


def entry(found, sentences):
    """A cell of the table; refusals are numbered in the order in which they come."""
    if found.verdict in ("equal", "wrong"):
        return {"equal": "equal", "wrong": "**wrong**"}[found.verdict]
    sentences += [remark for remark in found.remarks if remark not in sentences]
    return found.verdict + " " + ", ".join(str(sentences.index(remark) + 1) for remark in found.remarks)

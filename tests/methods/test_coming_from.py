"""docs/coming-from.md: every call of this course in its tables runs, and what is said to be the same as TransformerLens is."""
import contextlib
import io
import re
from pathlib import Path

import matplotlib
import pytest
import torch
import transformer_lens.patching

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}
ROWS = [(section, *(cell.strip() for cell in line.strip("|").split(" | ")))
        for section, text in SECTIONS.items() for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("|---") and not line.startswith(f"| {section} |")]
SETUP, EXAMPLE = re.findall(r"```python\n(.*?)```", PAGE, re.S)
PRINTED = re.search(r"```text\n(.*?)```", PAGE, re.S)[1]


@pytest.fixture(scope="module")
def names():
    """What the page defines before its tables."""
    matplotlib.use("Agg")
    found = {}
    exec(SETUP, found)
    return found


@pytest.fixture(scope="module")
def theirs(names):
    """The same for TransformerLens."""
    outcome, everyone = names["outcome"], torch.arange(len(names["clean"]))
    caches = {f"{which}_cache": names["model"].run_with_cache(names[which].tokens)[1] for which in ("clean", "corrupted")}
    return names | caches | {"patching": transformer_lens.patching,
                             "metric": lambda logits: outcome(logits[:, -1], everyone).mean()}


def test_the_page_has_its_five_tables():
    assert set(SECTIONS) > {"causal-tracer", "ROME", "TransformerLens", "pyvene", "nnsight"}
    assert len(ROWS) > 40 and all(len(row) == 4 for row in ROWS), [row for row in ROWS if len(row) != 4]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}-{i}" for i, row in enumerate(ROWS)])
def test_a_row(row, names, theirs, tmp_path, monkeypatch):
    section, peer, here, differs = row
    monkeypatch.chdir(tmp_path)
    [call] = re.fullmatch(r"`([^`]+)`", here).groups()
    result = run_call(call, dict(names))
    if section == "TransformerLens" and differs.startswith("same numbers"):
        expected = run_call(re.fullmatch(r"`([^`]+)`", peer)[1], dict(theirs))
        assert expected.std() > 0 and result.shape == expected.shape
        assert (result - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())


def run_call(call, names):
    try:
        code = compile(call, call, "eval")
    except SyntaxError:
        return exec(call, names)
    return eval(code, names)


def test_the_error_of_the_approximation_is_the_one_that_is_told(names):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(EXAMPLE, dict(names))
    assert printed.getvalue() == PRINTED

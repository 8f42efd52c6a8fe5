"""Light: quick to import, load and patch; and the floors of the house (who may import whom)."""
import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import utils

UTILS = Path(utils.__file__).parent
ROOT = UTILS.parent
FLOORS = {"templates": 0, "start": 0, "sources": 0, "context_patterns": 0,                           # the ground: words, versions, files
          "models": 1, "tasks": 1, "metrics": 1, "published": 1, "causal_graphs": 1, "causal_models": 2, "cliques": 2, "rules": 3, "networks": 3,
          "sites": 2, "subjects": 2, "flows": 2, "sampling": 2, "importance": 3, "search": 4, "writing": 3, "anatomy": 3, "layouts": 3,
          "classifiers": 3, "adders": 2, "reviews": 3, "contexts": 2, "spans": 4,
          "hooked": 4, "passes": 4, "copies": 4,
          "reuse": 5, "interventions": 6,
          "decoding": 7, "patching": 7, "induction": 7, "tracing": 7, "groups": 7, "frozen": 7, "alignment": 8, "disentangling": 7,
          "masking": 8, "finetuning": 8, "comparison": 9, "plots": 8, "widgets": 9,
          "checks": 10, "authoring": 10}
# `training` holds the recipes: they may use everything, and nobody imports them


def seconds(code):
    """Best of three runs of `code` in a fresh process.

    On one thread the processor's time is the time on an idle machine; a clock on the wall would measure what else runs.
    """
    best = float("inf")
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                             env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}).stdout
        best = min(best, float(out))
        if best < 2:
            break
    return best


TIMED = "import time; t = time.process_time()\n{}\nprint(time.process_time() - t)"


@pytest.mark.parametrize("modules", ["utils", "utils.models, utils.tasks"])
def test_import_takes_less_than_three_seconds(modules):
    assert seconds(TIMED.format(f"import {modules}")) < 3


def test_import_utils_imports_nothing_heavy():
    code = "import sys, utils; print(*[m for m in ('torch', 'numpy', 'transformers', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == ""
    code = "import sys, utils.models, utils.tasks; print('transformer_lens' in sys.modules, 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split() == ["False"] * 2


def test_load_model_takes_less_than_three_seconds():
    before = "import torch, transformers, transformer_lens.model_bridge\nfrom utils.models import load_model\n"
    assert seconds(before + TIMED.format("load_model()")) < 3


def test_the_map_of_one_pair_takes_less_than_two_seconds():
    from utils import patching, tasks
    from utils.metrics import LogitDifference
    from utils.models import answer_ids, encode, load_model
    model, pair = load_model(), tasks.ioi_pair()
    clean, corrupted = encode(model, pair.clean), encode(model, pair.corrupted)
    outcome = LogitDifference(answer_ids(model, [pair.answer]), answer_ids(model, [pair.wrong]))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        result = patching.residual_map(model, clean, corrupted, outcome)
        best = min(best, time.perf_counter() - start)
    assert best < 2 and result.patched.shape == (8, 17, 1)


# ---------------------------------------------------------------- floors

def imports(source, package):
    """Modules of utils that a file of `package` ("" for utils itself) imports: {"models", ...}."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("utils.")}
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level == 0:
                if parts[0] != "utils":
                    continue
                parts = parts[1:]
            elif node.level == 1 and package:
                parts = [package, *parts]
            found |= {parts[0]} if parts else {name.name for name in node.names}
    return found


def violations(package, room, source):
    """What `room` imports although it is not below it, as sentences."""
    return [f"{room} (floor {FLOORS[room]}) imports {other} (floor {FLOORS.get(other, '?')})"
            for other in sorted(imports(source, package) - {room})
            if other not in FLOORS or FLOORS[other] >= FLOORS[room]]


def files():
    for path in sorted(UTILS.rglob("*.py")):
        inside = path.relative_to(UTILS)
        if inside.parts[0] not in ("training", "__init__.py"):
            package = inside.parts[0] if len(inside.parts) > 1 else ""
            yield package, package or inside.stem, path


def test_every_room_has_a_floor():
    assert {room for _, room, _ in files()} <= set(FLOORS)


def test_rooms_import_only_from_floors_below():
    found = [v for package, room, path in files() for v in violations(package, room, path.read_text(encoding="utf-8"))]
    assert not found, "; ".join(found)


@pytest.mark.parametrize("source, caught", [
    ("from .patching import x", True), ("from . import patching", True), ("import utils.plots", True),
    ("def f():\n    from utils import patching", True), ("from utils.training import corpus", True),
    ("from .interventions import run\nfrom . import models\nimport torch", False)])
def test_the_rule_can_fail(source, caught):
    assert bool(violations("", "decoding", source)) == caught
    if "checks" not in source:
        assert not violations("checks", "checks", "from .helpers import call\nfrom utils.decoding import decode")


def test_modules_can_be_read_in_one_sitting():
    long = {path.name: n for _, _, path in files() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 350}
    assert not long

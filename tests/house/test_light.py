"""Light: quick to import, load and patch; and the floors of the house (who may import whom: import-linter)."""
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import utils

UTILS = Path(utils.__file__).parent
ROOT = UTILS.parent


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

def contract(folder):
    """What import-linter says of the package `utils` in this folder, by the contract in pyproject.toml."""
    return subprocess.run([sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"],
                          cwd=folder, capture_output=True, text=True)


def test_rooms_import_only_from_floors_below():
    found = contract(ROOT)
    assert found.returncode == 0 and "1 kept, 0 broken" in found.stdout, found.stdout


@pytest.mark.parametrize("room, line", [
    ("engine/sites.py", "from ..patching import head_map"),                   # a floor up
    ("decoding.py", "from .induction import head_scores"),                    # the room next door
    ("show/plots.py", "def late():\n    from ..checks import check"),         # late imports count
    ("attic.py", "import torch")])                                            # a room without a floor
def test_the_contract_can_break(room, line, tmp_path):
    for path in UTILS.rglob("*.py"):
        copy = tmp_path / "utils" / path.relative_to(UTILS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "utils" / room, "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    assert contract(tmp_path).returncode != 0

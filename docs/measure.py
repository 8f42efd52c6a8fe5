"""Runs the solution notebooks and puts their cost into the table of the README: python -m docs.measure

Seconds are those that one waits, so let the machine do nothing else meanwhile.
"""
import json
import re
import tempfile
import time
from pathlib import Path

from utils.authoring.execute import run
from utils.authoring.notebook import ROOT, read

LAST_CELL = """import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)      # in KiB on Linux"""


def measure(path: Path) -> tuple[int, int]:
    """(seconds to run the notebook in `path` from the start of its kernel, peak memory of the kernel in MiB)."""
    notebook = read(path)
    notebook["cells"].append({"cell_type": "code", "id": "peak-memory", "metadata": {}, "source": LAST_CELL,
                              "execution_count": None, "outputs": []})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(json.dumps(notebook), encoding="utf-8")
        begin = time.perf_counter()
        done = run(copy, strict=True, cwd=path.parent)
    return round(time.perf_counter() - begin), int("".join(done["cells"][-1]["outputs"][0]["text"]))


def fill(text: str, name: str, seconds: int, memory: int) -> str:
    """The README with new numbers in the last two columns of one notebook's row; all else as it was."""
    row = rf"^(\|.*\(course/{re.escape(name)}\).*\|)[^|]*\|[^|]*\|$"
    return re.sub(row, rf"\1 {seconds} | {memory} |", text, flags=re.M)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for path in sorted((ROOT / "solutions").glob("*.ipynb")):
        seconds, memory = measure(path)
        print(f"{path.name}: {seconds} s, {memory} MiB")
        text = fill(text, path.name, seconds, memory)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

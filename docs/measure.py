"""Runs the solution notebooks and puts their cost into the table of the README: python -m docs.measure

Processor time is taken, because it hardly depends on what else the machine does; on an idle machine waiting is no longer.
"""
import json
import re
import tempfile
from pathlib import Path

from utils.authoring.execute import run
from utils.authoring.notebook import ROOT, read

LAST_CELL = """import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(round(used.ru_utime + used.ru_stime), used.ru_maxrss // 1024)      # ru_maxrss is in KiB on Linux"""


def measure(path: Path) -> tuple[int, int]:
    """(processor seconds, peak memory in MiB) of the kernel that runs the notebook in `path`."""
    notebook = read(path)
    notebook["cells"].append({"cell_type": "code", "id": "cost", "metadata": {}, "source": LAST_CELL,
                              "execution_count": None, "outputs": []})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(json.dumps(notebook), encoding="utf-8")
        done = run(copy, strict=True, cwd=path.parent)
    seconds, memory = "".join(done["cells"][-1]["outputs"][0]["text"]).split()
    return int(seconds), int(memory)


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

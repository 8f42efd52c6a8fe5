"""What recipes and their model cards share: options, thresholds, the table of numbers, and writing beside the weights."""
from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Callable, Iterable

Threshold = tuple[str, float]  # (">=" or "<=", bound)


def options(recipe: str, steps: int, out: Path) -> argparse.Namespace:
    """What a recipe is told on the command line: seed, steps and the folder to write to."""
    parser = argparse.ArgumentParser(description=recipe, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args()


def meets(value: float, threshold: Threshold) -> bool:
    sign, bound = threshold
    return value >= bound if sign == ">=" else value <= bound


def missed(numbers: dict, thresholds: dict[str, Threshold]) -> str:
    """The last line of a recipe: which thresholds were missed, or that none was."""
    found = [f"{name} {numbers[name]}" for name, threshold in thresholds.items() if not meets(numbers[name], threshold)]
    return "missed: " + ", ".join(found) if found else "all thresholds reached"


def rounded(numbers: dict) -> dict:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in numbers.items()}


def table(labels: dict[str, str], numbers: dict, thresholds: dict[str, Threshold]) -> str:
    """A Markdown table: what (`labels`), measured, threshold, reached."""
    rows = []
    for name, label in labels.items():
        sign, bound = thresholds[name]
        verdict = "yes" if meets(numbers[name], thresholds[name]) else "**no**"
        rows.append(f"| {label} | {numbers[name]:.3f} | {sign} {bound:g} | {verdict} |")
    return "\n".join(["| what | measured | threshold | reached |", "|---|---|---|---|", *rows])


def settings(how: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in how.items())


def write(folder: Path, how: dict[str, object], numbers: dict, text: str) -> None:
    """`measured.json`, how the model was made and what it does, and `README.md`, its card."""
    (folder / "measured.json").write_text(json.dumps({**how, **numbers}, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(text, encoding="utf-8")


def read_seeds(folder: Path) -> dict[str, dict[str, float]]:
    """Numbers by seed from `seeds.json`; empty if only one run was measured."""
    file = folder / "seeds.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def collect_seeds(folder: Path, others: list[Path], thresholds: dict[str, Threshold],
                  text: Callable[[dict, dict, dict], str]) -> None:
    """Write `seeds.json` from the measurements in `folder` and `others`, and the card again with it."""
    measured = [json.loads((f / "measured.json").read_text(encoding="utf-8")) for f in (folder, *others)]
    by_seed = {str(m["seed"]): {name: m[name] for name in thresholds} for m in measured}
    (folder / "seeds.json").write_text(json.dumps(by_seed, indent=1) + "\n", encoding="utf-8")
    how = {key: measured[0].pop(key) for key in ("seed", "steps")}
    (folder / "README.md").write_text(text(measured[0], how, by_seed), encoding="utf-8")


def seed_table(seeds: dict[str, dict[str, float]], labels: dict[str, str], thresholds: dict[str, Threshold]) -> str:
    """The section of the card that compares training runs; empty for a single one."""
    if len(seeds) < 2:
        return ""
    lines = []
    for name, label in labels.items():
        cells = [f"{n[name]:.3f}" + " (**missed**)" * (not meets(n[name], thresholds[name])) for n in seeds.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    head = f"| what | {' | '.join('seed ' + s for s in seeds)} |\n|---|{'---|' * len(seeds)}"
    return f"""
## The same recipe with other seeds

{head}
{chr(10).join(lines)}
"""


def write_known_words(folder: Path, texts: Iterable[str]) -> None:
    """`words.txt`: every word of the training text, so that a prompt with any other word can be warned about."""
    words = {word for text in texts for word in re.findall(r"[^\W\d_]+", text)}
    (folder / "words.txt").write_text("\n".join(sorted(words)) + "\n", encoding="utf-8")

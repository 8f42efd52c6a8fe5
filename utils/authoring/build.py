"""Keeps course/, the checks' references, first cells and the README's badges in step with solutions/ and pyproject.toml."""
from __future__ import annotations

from pathlib import Path

from .derive import student_version
from .first_cell import refresh_first_cell, refresh_readme, settings
from .lint import lint, lint_course
from .notebook import Refused, read, render, where, write
from .references import FOLDER, module_path, references


def plan(root: Path) -> dict[Path, str]:
    """Every file the builder answers for, with the text it should hold. Raises Refused with all problems at once."""
    chosen, wanted, problems = settings(root), {}, []
    sources = sorted((root / "solutions").glob("*.ipynb"))
    for path in sources:
        try:
            notebook = refresh_first_cell(read(path), chosen)
            wanted[root / "course" / path.name] = render(student_version(notebook, path, chosen))
            wanted[path] = render(notebook)
            if text := references(notebook, path):
                wanted[module_path(root, path)] = text
        except Refused as error:
            problems += error.problems
    readme = root / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        wanted[readme] = refresh_readme(text, [path.name for path in sources], chosen)
        if chosen.repository and "<!-- badges -->" not in text:
            problems.append("README.md: it has no place for the badges, <!-- badges --> and <!-- /badges -->.")
    if problems:
        raise Refused(problems)
    return wanted


def build(root: Path) -> list[Path]:
    """Write what is out of step and return it. Nothing is written if anything is refused."""
    return [path for path, text in plan(root).items() if write(path, text)]


def extra(root: Path) -> list[str]:
    """One sentence for each notebook in course/, or module of references, that no solution notebook stands behind."""
    sources = sorted((root / "solutions").glob("*.ipynb"))
    expected = {root / "course" / path.name for path in sources} | {module_path(root, path) for path in sources}
    found = [*sorted((root / "course").glob("*.ipynb")), *sorted((root / FOLDER).glob("nb*.py"))]
    return [f"{where(path)}: there is no solutions/{_source_name(path)} behind it; delete it or rename it back."
            for path in found if path not in expected]


def _source_name(path: Path) -> str:
    """The solution notebook behind a derived file: 03_*.ipynb for the references in nb03.py."""
    return path.name if path.suffix == ".ipynb" else f"{path.stem.removeprefix('nb')}_*.ipynb"


def out_of_step(root: Path) -> list[str]:
    """One sentence for each file that `build` would change or cannot explain."""
    return [_explained(path) for path, text in plan(root).items()
            if not path.exists() or path.read_text(encoding="utf-8") != text] + extra(root)


def _explained(path: Path) -> str:
    if path.suffix == ".md":
        return f"{path.name}: the badges do not fit pyproject.toml; run python -m utils.authoring."
    if path.parent.name == "solutions":
        return f"{where(path)}: its first cell or its layout is not the builder's; run python -m utils.authoring."
    if not path.exists():
        return f"{where(path)} is missing; run python -m utils.authoring."
    return (f"{where(path)} is not what solutions/{_source_name(path)} gives: it was edited by hand or is out of date; "
            f"change solutions/{_source_name(path)} and run python -m utils.authoring.")


def problems(root: Path) -> list[str]:
    """Everything `--check` reports: refusals, files out of step, and broken rules."""
    try:
        found = out_of_step(root)
        chosen = settings(root)
    except Refused as error:
        return error.problems
    for path in sorted((root / "solutions").glob("*.ipynb")):
        found += lint(read(path), path, chosen)
    for path in sorted((root / "course").glob("*.ipynb")):
        found += lint_course(read(path), path)
    return found

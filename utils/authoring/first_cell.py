"""What depends on where the repository lies: the first cell of every notebook, and the badges.

The address and the tag are one setting, [tool.course] in pyproject.toml.
"""
from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .notebook import Refused, code_cells, tags

TEMPLATE = '''\
# The same first cell in every notebook. To run another model change this one line, then restart the kernel.
MODEL = "{model}"

import importlib.util, subprocess, sys
from pathlib import Path

def course_folder(start=Path.cwd()):
    places = (start, *start.parents, start / "{folder}")
    return next((str(place) for place in places if (place / "utils" / "checks").is_dir()), None)

class Stop(Exception):                                         # one sentence instead of a traceback
    def _render_traceback_(self):
        return [str(self)]

if sys.version_info < (3, 11):
    raise Stop("This course needs Python 3.11 or newer, and this kernel runs " + sys.version.split()[0] + ".")
if not course_folder() and importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"):
    {colab}
if not course_folder():
    raise Stop("Open this notebook inside the course folder: there is no utils/checks in or above " + str(Path.cwd()))
if course_folder() not in sys.path:
    sys.path.insert(0, course_folder())
from utils import start
start.report()'''
CLONE = 'subprocess.run(["git", "clone", "--depth=1", "--branch={tag}", "{repository}", "{folder}"], check=True)'
MODEL_TAG, MODEL = "model=", "course-gpt2"      # a lesson on another model says so: its first cell is tagged model=NAME
NO_ADDRESS = ('raise Stop("The repository address of this course is not set yet: upload the course folder '
              'as {folder} next to this notebook.")')
MARKERS = re.compile(r"(<!-- badges -->).*?(<!-- /badges -->)", re.S)


@dataclass(frozen=True)
class Settings:
    """Where the course can be fetched; `repository` is "" while it has no public address."""
    repository: str
    tag: str
    folder: str

    @property
    def slug(self) -> str:
        return self.repository.removeprefix("https://github.com/")


def settings(root: Path) -> Settings:
    """[tool.course] of pyproject.toml; raises Refused if the address is not one that Binder and Colab both can open."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    course = project["tool"]["course"]
    address = course["repository"].removesuffix(".git").rstrip("/")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise Refused([f'pyproject.toml: repository must be "" or "https://github.com/OWNER/NAME", not "{address}".'])
    return Settings(address, course["tag"], project["project"]["name"])


def first_cell(chosen: Settings, tagged: list[str] = []) -> dict:
    """The generated code cell with the id `setup`; `tagged` may name the model of the lesson."""
    named = [tag.removeprefix(MODEL_TAG) for tag in tagged if tag.startswith(MODEL_TAG)]
    values = {"model": (*named, MODEL)[0], "repository": chosen.repository, "tag": chosen.tag, "folder": chosen.folder}
    colab = (CLONE if chosen.repository else NO_ADDRESS).format(**values)
    return {"cell_type": "code", "id": "setup", "metadata": {}, "execution_count": None, "outputs": [],
            "source": TEMPLATE.format(colab=colab, **values)}


def refresh_first_cell(notebook: dict, chosen: Settings) -> dict:
    """The notebook with the current first code cell: inserted below the title, or renewed with its outputs kept."""
    cells, first = list(notebook["cells"]), code_cells(notebook)[:1]
    fresh = first_cell(chosen, tags(first[0]) if first else [])
    if first and first[0].get("id") == "setup":
        cells[cells.index(first[0])] = {**first[0], "source": fresh["source"]}
    elif "setup" not in [cell.get("id") for cell in cells]:      # one that is misplaced will be refused
        cells.insert(1 if cells and cells[0]["cell_type"] == "markdown" else 0, fresh)
    return {**notebook, "cells": cells}


def badges(notebook: str, chosen: Settings) -> str:
    """Markdown badges that open course/<notebook> on Binder and Colab; "" while there is no address."""
    if not chosen.repository:
        return ""
    binder = f"https://mybinder.org/v2/gh/{chosen.slug}/{chosen.tag}?labpath=course%2F{notebook}"
    colab = f"https://colab.research.google.com/github/{chosen.slug}/blob/{chosen.tag}/course/{notebook}"
    return (f"[![Open on Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
            f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})")


def refresh_readme(text: str, notebooks: list[str], chosen: Settings) -> str:
    """README text with one line of badges per notebook between its markers, and nothing there without an address."""
    lines = [f"- {name.removesuffix('.ipynb')} {badges(name, chosen)}" for name in notebooks if chosen.repository]
    block = "\n".join(["<!-- badges -->", *lines, "<!-- /badges -->"])
    return MARKERS.sub(lambda _: block, text)

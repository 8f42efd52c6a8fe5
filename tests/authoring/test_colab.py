"""Colab, simulated: a copy of the course in an empty folder, a fake google.colab, pip and git replaced by recorders.

Packages that Colab lacks are hidden from the new process until the recorded pip "installs" them. So the test fails both
when something is installed that Colab has and when something is forgotten.
"""
import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
from tiny import ROOT, Course, good_cells

from utils import start
from utils.authoring.build import build
from utils.authoring.notebook import code_cells, source

LACKS = ["transformer_lens", "jaxtyping", "wadler_lindig", "beartype", "fancy_einsum", "transformers_stream_generator"]
NEVER = {"torch", "transformers", "numpy"}
ADDRESS = "https://github.com/someone/a-course"

# Runs at the start of every Python process of the simulation, pip included.
SITECUSTOMIZE = '''
import json, os, sys
class Hidden:
    def find_spec(name, path=None, target=None):
        installed = open(os.environ["PIP_RECORD"]).read() if os.path.exists(os.environ["PIP_RECORD"]) else ""
        if name in json.loads(os.environ["LACKS"]) and f'"{name}' not in installed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden)
'''
PIP = '''
import json, os, sys
with open(os.environ["PIP_RECORD"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
'''
GIT = '''#!{python}
import json, os, shutil, sys
with open(os.environ["GIT_RECORD"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
shutil.copytree(os.environ["COURSE_COPY"], sys.argv[-1])
'''
# find_spec that raises is what `import` needs, but "is it there?" has to answer None, as it would on Colab.
ANSWER_NONE = '''
import importlib.util
_find_spec = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return _find_spec(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
'''


class Colab:
    """A machine like Colab; `run(text)` executes a first cell in its empty working folder."""

    def __init__(self, folder):
        self.folder, self.work, fake = folder, folder / "content", folder / "fake"
        for made in (self.work, fake / "google" / "colab", fake / "pip", folder / "bin"):
            made.mkdir(parents=True)
        for name, text in {"google/__init__.py": "", "google/colab/__init__.py": "", "pip/__init__.py": "",
                           "pip/__main__.py": PIP, "sitecustomize.py": SITECUSTOMIZE + ANSWER_NONE}.items():
            (fake / name).write_text(text)
        (folder / "bin" / "git").write_text(GIT.format(python=sys.executable))
        (folder / "bin" / "git").chmod(0o755)
        self.environment = {**os.environ, "PYTHONPATH": str(fake), "LACKS": json.dumps(LACKS),
                            "PIP_RECORD": str(folder / "pip.log"), "GIT_RECORD": str(folder / "git.log"),
                            "COURSE_COPY": str(folder / "copy"),
                            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def run(self, text, cwd=None, **environment):
        return subprocess.run([sys.executable, "-c", text], cwd=cwd or self.work, capture_output=True, text=True,
                              env={**self.environment, **environment})

    def recorded(self, name):
        path = self.folder / f"{name}.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def colab(tmp_path):
    return Colab(tmp_path / "colab")


def copy_course(target):
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.log")
    shutil.copytree(ROOT, target, ignore=ignored)
    return target


def first_cell(tmp_path, address):
    """The generated first cell for an address, taken from a built notebook."""
    (tmp_path / "tiny").mkdir()
    course = Course(tmp_path / "tiny")
    course.set_address(address)
    course.add(*good_cells())
    build(course.root)
    return course.text("setup")


def imports():
    """The import statements of all notebooks of the course and of all of `utils` that notebooks may use."""
    lines = ["from transformer_lens.model_bridge import TransformerBridge", "import jaxtyping, einops, utils.checks"]
    for path in sorted((ROOT / "solutions").glob("*.ipynb")):
        for cell in code_cells(json.loads(path.read_text(encoding="utf-8"))):
            lines += [ast.unparse(node) for node in ast.parse(source(cell).replace("%matplotlib inline", "")).body
                      if isinstance(node, (ast.Import, ast.ImportFrom))]
    lines += [f"import utils.{path.stem}" for path in sorted((ROOT / "utils").glob("*.py")) if path.stem != "__init__"]
    return "\n".join(dict.fromkeys(lines))


def installed(colab):
    """Package names of the recorded pip calls, which must all be plain installs without dependencies."""
    names = []
    for arguments in colab.recorded("pip"):
        assert arguments[0] == "install" and "--no-deps" in arguments
        names += [argument.split(">")[0].split("<")[0].split("=")[0].replace("-", "_") for argument in arguments[1:]
                  if not argument.startswith("-")]
    return names


@pytest.fixture(scope="module")
def cloned(tmp_path_factory):
    """Colab after the first cell of a course with an address: it cloned, installed and imported."""
    folder = tmp_path_factory.mktemp("cloned")
    colab, text = Colab(folder / "colab"), first_cell(folder, ADDRESS)
    copy_course(folder / "colab" / "copy")
    ran = colab.run(text + "\n" + imports() + "\nprint('imports work')")
    assert ran.returncode == 0, ran.stderr
    return colab, ran, text


def test_clones_the_pinned_tag_installs_little_and_imports_work(cloned):
    colab, ran, _ = cloned
    assert colab.recorded("git") == [["clone", "--depth=1", "--branch=v1", ADDRESS, "interpretability-course"]]
    assert ran.stdout.splitlines()[-1] == "imports work"
    assert "transformer_lens 4." in ran.stdout
    assert not NEVER & set(installed(colab))
    assert set(installed(colab)) <= set(LACKS), "only what Colab lacks"
    assert "transformer_lens" in installed(colab)


def test_the_simulation_notices_what_was_not_installed(colab, tmp_path):
    """The same imports fail on this Colab without the first cell, so their success above means something."""
    copy_course(tmp_path / "colab" / "copy")
    ran = colab.run(imports(), cwd=tmp_path / "colab" / "copy")
    assert ran.returncode and "No module named 'transformer_lens'" in ran.stderr


def test_a_second_run_installs_and_clones_nothing(cloned):
    colab, _, text = cloned
    before = colab.recorded("pip"), colab.recorded("git")
    ran = colab.run(text)
    assert ran.returncode == 0, ran.stderr
    assert (colab.recorded("pip"), colab.recorded("git")) == before


def test_without_an_address_colab_says_so_in_one_sentence(colab, tmp_path):
    ran = colab.run(first_cell(tmp_path, ""))
    sentence = ran.stderr.splitlines()[-1].split("Stop: ")[1]
    assert sentence == ("The repository address of this course is not set yet: "
                        "upload the course folder as interpretability-course next to this notebook.")
    assert colab.recorded("git") == colab.recorded("pip") == []


def test_an_uploaded_folder_works_without_an_address(colab, tmp_path):
    copy_course(colab.work / "interpretability-course")
    ran = colab.run(first_cell(tmp_path, "") + "\n" + imports() + "\nprint('imports work')")
    assert ran.stdout.splitlines()[-1:] == ["imports work"], ran.stderr
    assert colab.recorded("git") == [] and not NEVER & set(installed(colab))


def test_never_lists_what_colab_has_fitted_to_its_drivers():
    assert not NEVER & set(start.NEEDED)


def test_outside_colab_nothing_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(start, "install_missing", lambda: pytest.fail("installed something"))
    monkeypatch.setattr(start, "on_colab", lambda: False)
    start.report()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_unfit_version_gets_one_sentence(monkeypatch):
    assert start.unfit() == []
    faked = {"transformers": "4.57.1", "torch": "missing", "transformer_lens": "4.3.0"}
    monkeypatch.setattr(start, "_version", faked.get)
    assert [text.split(":")[0] for text in start.unfit()] == [
        "torch missing is outside the range the course was tested with, <2.14,>=2.7",
        "transformers 4.57.1 is outside the range the course was tested with, <6,>=5.9"]

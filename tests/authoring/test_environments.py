"""requirements.txt, Binder and the continuous integration agree with one another and with what is imported."""
import ast
import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from tiny import ROOT

from utils.authoring.notebook import code_cells, source

TOOLS = {"jupyterlab", "ipykernel", "nbval", "pytest", "pytest_xdist", "import_linter"}          # used by name, not by an import
# Imported, and always there with the package on the right, or a part of it.
COMES_WITH = {"IPython": "ipykernel", "tokenizers": "transformers", "huggingface_hub": "transformers",
              "yaml": "transformers", "einops": "transformer_lens", "sklearn": "scikit_learn"}


def listed(lines):
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {requirement.name.replace("-", "_"): requirement.specifier for requirement in found}


@pytest.fixture(scope="module")
def requirements():
    return listed((ROOT / "requirements.txt").read_text().splitlines())


@pytest.fixture(scope="module")
def binder():
    """{package: range} of Binder's own list, `pytorch-cpu` under the name that pip knows, torch."""
    content = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())
    assert content["channels"] == ["conda-forge", "nodefaults"]
    python, _, torch, with_pip = content["dependencies"]
    assert python == "python=3.11" and torch.startswith("pytorch-cpu")
    return listed([torch.replace("pytorch-cpu", "torch"), *with_pip["pip"]])


def third_party(*trees):
    """Top-level names imported by these syntax trees, without the standard library and our own packages."""
    names = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    ours = {path.name for folder in (ROOT, ROOT / "tests") for path in folder.iterdir() if path.is_dir()} | {path.stem for path in ROOT.glob("tests/**/*.py")}
    return {COMES_WITH.get(name, name) for name in names - set(sys.stdlib_module_names) - ours}


def python_trees(folder):
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / folder).glob("**/*.py"))]


def notebook_trees():
    for path in sorted((ROOT / "solutions").glob("*.ipynb")):
        for cell in code_cells(json.loads(path.read_text(encoding="utf-8"))):
            yield ast.parse("\n".join(line for line in source(cell).split("\n") if not line.startswith("%")))


def test_requirements_cover_every_import_and_nothing_else(requirements):
    course = third_party(*python_trees("utils"), *python_trees("docs"), *notebook_trees())
    peers = listed((ROOT / "tests" / "benchmarks" / "requirements.txt").read_text().splitlines()).keys()  # in an environment of their own
    used = course | third_party(*python_trees("tests")) - peers
    assert used - {"google"} <= requirements.keys()
    assert requirements.keys() - TOOLS <= used, "only what is used"


def test_binder_covers_what_the_course_imports(binder):
    used = third_party(*python_trees("utils"), *notebook_trees()) - {"ipykernel"}      # Binder brings Jupyter itself
    assert used <= binder.keys()


def test_binder_agrees_with_the_requirements(binder, requirements):
    assert {name: requirements.get(name) for name in binder} == binder
    assert not list((ROOT / "binder").glob("requirements*")), "one list for Binder"


def test_torch_is_capped_and_the_tested_version_fits(requirements):
    assert requirements["torch"].contains("2.13.0") and not requirements["torch"].contains("2.14.0")


def test_what_is_installed_fits(requirements):
    versions = {name: metadata.version(name) for name in requirements}
    assert not [(name, versions[name]) for name, wanted in requirements.items() if not wanted.contains(versions[name])]


def test_ci_runs_the_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    commands = [line.split("#")[0].strip() for line in text.splitlines()]
    assert "python -m pip install --quiet -r requirements.txt" in commands and "python -m pytest" in commands
    assert "set -euo pipefail" in commands
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["tests"]
    assert workflow["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert [step["run"] for step in workflow["steps"] if "run" in step] == [".ci/run"]


def test_the_readme_gives_the_same_commands():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README yet")
    for command in ("pip install -r requirements.txt", "python -m pytest"):
        assert command in readme.read_text(encoding="utf-8")


def test_pytest_finds_tests_and_notebooks_by_itself(pytestconfig):
    assert pytestconfig.getini("testpaths") == ["tests", "course", "solutions"]
    assert pytestconfig.option.nbval_lax and pytestconfig.option.nbval_current_env
    assert pytestconfig.option.nbval_cell_timeout == 300 and pytestconfig.option.nbval_kernel_startup_timeout == 180
    assert os.environ["HF_HUB_OFFLINE"] == "1"

"""What the first cell of every notebook calls once it has found the course: `start.report()`."""
from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
SHOWN = ("torch", "transformers", "transformer_lens")
# What the course and TransformerLens import. torch, transformers and numpy are left out on purpose: Colab has them,
# fitted to its drivers, and replacing them breaks the running kernel.
NEEDED = ("transformer_lens", "jaxtyping", "beartype", "wadler_lindig", "einops", "accelerate", "datasets", "rich",
          "sentencepiece", "pandas", "matplotlib", "seaborn", "safetensors", "tqdm", "scipy", "sklearn", "ipywidgets")
PACKAGES = {"sklearn": "scikit-learn"}     # where the package has another name than what is imported


def report() -> None:
    """On Colab install what it lacks; print versions and device in one line, and a sentence for an unfit version."""
    if on_colab():
        install_missing()
    import torch      # only now: everything above must work without it
    device = f"cuda ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "cpu"
    versions = [f"{name} {_version(name)}" for name in SHOWN]
    print(" · ".join([f"Python {platform.python_version()}", *versions, f"device {device}"]))
    for sentence in unfit():
        print(sentence)


def on_colab() -> bool:
    return bool(_found("google") and _found("google.colab"))


def install_missing() -> list[str]:
    """Install what of NEEDED cannot be imported, without dependencies; returns what was installed."""
    ranges = {_plain(wanted.name): wanted for wanted in _requirements()}
    wanted = [PACKAGES.get(name, name) for name in NEEDED if not _found(name)]
    missing = [str(ranges.get(_plain(name), name)) for name in wanted]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *missing], check=True)
        importlib.invalidate_caches()
    return missing


def unfit() -> list[str]:
    """One sentence for each package in SHOWN that is missing or lies outside the range of requirements.txt."""
    wanted = {_plain(requirement.name): requirement for requirement in _requirements()}
    ranges = {name: wanted[_plain(name)].specifier for name in SHOWN}
    return [f"{name} {_version(name)} is outside the range the course was tested with, {ranges[name]}: if "
            "something fails, install that." for name in SHOWN
            if _version(name) == "missing" or not ranges[name].contains(_version(name), prereleases=True)]


def _requirements() -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def _found(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()

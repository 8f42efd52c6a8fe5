"""What the benchmark runs on: the peers' environment, the models, and a description of the machine."""
from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import venv
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from utils.models import CHECKPOINTS

from .jobs import SHIPPED

ADDER = "arithmetic-gpt2"                                   # the shipped classifier
PEERS_OWN = {"peer_tracer", "alignment.peer_pyvene"}        # sides that run in the peers' environment
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# width, layers, heads, vocabulary, positions
SHAPES = {"gpt2-shape": (768, 12, 12, 50257, 1024), "tiny-shape": (64, 4, 4, 2560, 128)}
SHAPES |= {"gpt2-classifier": SHAPES["gpt2-shape"], "tiny-classifier": SHAPES["tiny-shape"]}


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "interpretability-course" / "benchmarks"


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, which is made in `folder` if it is not there yet.

    Its name holds what is installed in it, so that other requirements make another environment. Raises ValueError for
    a folder inside the repository.
    """
    if folder.resolve().is_relative_to(ROOT):
        raise ValueError(f"the peers' environment must lie outside the repository, not in {folder}")
    torch = f"torch=={version('torch').split('+')[0]}"
    requirements = HERE / "requirements.txt"
    contents = f"{platform.python_version()} {torch}\n{requirements.read_text(encoding='utf-8')}"
    home = folder / f"peers-{sha256(contents.encode()).hexdigest()[:12]}"
    python, complete = home / "bin" / "python", home / "complete"
    if not complete.is_file():
        print(f"making the peers' environment, {home.name} (once, about 2 GB)", file=sys.stderr, flush=True)
        venv.create(home, clear=True, with_pip=True)
        for what in ([torch], ["-r", str(requirements)]):    # torch first and alone: nothing else chooses its build
            subprocess.run([python, "-m", "pip", "install", "-qq", *what], check=True)
        complete.touch()
    return python


def model_folder(name: str, scratch: Path) -> Path:
    """The shipped model, or a GPT-2 of one of `SHAPES` with random weights, saved in `scratch`.

    Matrices are drawn four times as wide as GPT-2's initialisation, without which every output would be nearly uniform.
    The tokenizer is that of the shipped model of the same kind; the rest of a larger vocabulary stays unused.
    """
    if name in (SHIPPED, ADDER):
        return CHECKPOINTS / name
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, logging

    logging.disable_progress_bar()
    folder, classifies = scratch / name, name.endswith("classifier")
    width, layers, heads, vocabulary, positions = SHAPES[name]
    torch.manual_seed(0)
    config = GPT2Config(n_embd=width, n_layer=layers, n_head=heads, vocab_size=vocabulary, n_positions=positions,
                        bos_token_id=0, eos_token_id=0, num_labels=28 if classifies else 2,
                        pad_token_id=vocabulary - 1 if classifies else None)
    model = (GPT2ForSequenceClassification if classifies else GPT2LMHeadModel)(config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "wpe" not in parameter_name:
                parameter.mul_(4)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CHECKPOINTS / (ADDER if classifies else SHIPPED) / file, folder)
    return folder


def machine() -> str:
    """Processor, cores, memory, system and Python; no name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = named[0] if named else platform.machine()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (f"{processor}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory, {platform.system()}, "
            f"Python {platform.python_version()}")

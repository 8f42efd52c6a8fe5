"""Our side: the jobs through the public functions of the course."""
from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from utils import patching
from utils.engine.passes import count_arithmetic
from utils.masking import Groups, MaskingGame, random_masks
from utils.metrics import LogitDifference
from utils.models import answer_ids, encode, load_model
from utils.tasks import ioi_dataset
from utils.tracing import CausalTracer

PACKAGES = ("torch", "transformers", "numpy")
counting = count_arithmetic    # what the worker counts with


def load(folder: str):
    model = load_model(folder, device="cpu", bos=True)
    # the tracer's peer puts no beginning-of-text token in front, and neither does the folder's plain tokenizer
    model.plain_tokenizer = AutoTokenizer.from_pretrained(folder)
    return model


def _pair(model, clean, corrupted, answer, wrong):
    outcome = LogitDifference(answer_ids(model, answer), answer_ids(model, wrong))
    return encode(model, clean, warn=False), encode(model, corrupted, warn=False), outcome


def residual_map(model, clean, corrupted, answer, wrong) -> dict[str, np.ndarray]:
    """Effect, [layer, position]."""
    return {"effect": patching.residual_map(model, *_pair(model, clean, corrupted, answer, wrong)).effect.numpy()}


def head_maps(model, clean, corrupted, answer, wrong, positions) -> dict[str, np.ndarray]:
    """Effect of each head's output at each of the positions, [layer, head]."""
    pair = _pair(model, clean, corrupted, answer, wrong)
    return {f"at {position}": patching.head_map(model, *pair, positions=position).effect.numpy()
            for position in positions}


def trace(model, prompt, subject, kind, window, samples) -> dict[str, np.ndarray]:
    """Probability of the answer: restored, [token, layer], noised (low) and clean (high)."""
    tracer = CausalTracer(model, model.plain_tokenizer)
    flow = tracer.calculate_hidden_flow(prompt, subject, kind=kind, window=window, samples=samples)
    return {"scores": flow.scores.numpy(), "low": np.array(flow.low_score), "high": np.array(flow.high_score)}


def masks(model, prompt, answer, wrong, kind, layers, groups, number) -> dict[str, np.ndarray]:
    """Logit difference under each random mask over groups of the units of each layer, [mask]."""
    own = [member for layer in layers for member in Groups.contiguous(model, kind, groups, layer).members]
    outcome = LogitDifference(answer_ids(model, answer), answer_ids(model, wrong))
    game = MaskingGame(model, encode(model, prompt, warn=False), outcome, Groups(kind, tuple(own)))
    return {"difference": game(random_masks(len(own), number, seed=0))[:, 0].numpy()}


def growth(model, prompts, batch_size) -> dict[str, np.ndarray]:
    """Residual map of `prompts` prompts of one template; bytes held before and at most while it was made."""
    pairs = ioi_dataset(prompts, order="ABBA", opening="After {A} and {B} went to the {P},",
                        clause="{S} gave {D} {O} to", place="store", thing="bottle of milk", determiner="a")
    columns = ([getattr(pair, name) for pair in pairs] for name in ("clean", "corrupted", "answer", "wrong"))
    _forget_peak()
    before = _memory("VmRSS")
    patching.residual_map(model, *_pair(model, *columns), batch_size=batch_size)
    return {"before": np.array(before), "peak": np.array(_memory("VmHWM"))}


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")   # Linux: the high-water mark starts again from the present size


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


@lru_cache(maxsize=None)
def _matrices(inputs: int, outputs: int) -> list[torch.Tensor]:
    """As many of one shape as weigh 16 MiB, at least one: they come from memory, as they do in a model."""
    draw = torch.Generator().manual_seed(0)
    number = max(1, 2 ** 22 // (inputs * outputs))
    return [torch.randn(inputs, outputs, generator=draw) for _ in range(number)]


def matrix_rate(model, rows, products) -> dict[str, np.ndarray]:
    """Operations a second of nothing but products with matrices of the shapes involved, as much arithmetic as our run has:
    a short look would find the machine at its best moment, and our run takes seconds. Each shape with the number of rows
    at which it is fastest. products: (inputs, outputs, operations) for each shape."""
    seconds = done = 0
    for inputs, outputs, operations in products:
        matrices, bias = _matrices(inputs, outputs), torch.zeros(outputs)

        def rate(count: int, number: int) -> tuple[float, float]:
            """Seconds of `number` products with `count` rows, and their operations."""
            x, start = torch.ones(count, inputs), time.perf_counter()
            for i in range(number):
                torch.addmm(bias, x, matrices[i % len(matrices)])
            return time.perf_counter() - start, 2 * count * inputs * outputs * number

        def short(count: int) -> float:
            taken, made = rate(count, len(matrices))
            return made / taken

        best = max(rows, key=short)
        taken, made = rate(best, max(1, round(operations / (2 * best * inputs * outputs))))
        seconds, done = seconds + taken, done + made
    return {"rate": np.array(done / seconds)}

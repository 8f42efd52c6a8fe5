"""What the recipes share: two optimizers, a bfloat16 copy for the gradients, a learning rate, checkpoints."""
from __future__ import annotations

import copy
import os
import random
from pathlib import Path

import torch

STATE_FILE = "training-state.pt"


def make_optimizers(model, rate: float, blocks: str) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks (parameters with `blocks` in their name), AdamW for everything else."""
    def is_hidden(name, p):
        return p.dim() == 2 and blocks in name

    hidden = [p for n, p in model.named_parameters() if is_hidden(n, p)]
    other = [p for n, p in model.named_parameters() if not is_hidden(n, p)]
    muon = torch.optim.Muon(hidden, lr=rate, weight_decay=0.1, momentum=0.95, ns_steps=4,
                            adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(other, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Up to `peak` within `warm_up` steps, there for a twentieth of all, then down in a straight line."""
    return peak * min(1.0, (step + 1) / warm_up) * max(0.02, 1 - max(0.0, step / steps - 0.05) / 0.95)


class Trainer:
    """A float32 model with its optimizers, and a bfloat16 copy, `fast`, whose gradients `update` applies."""

    def __init__(self, model, rate: float, blocks: str):
        self.model, self.optimizers = model, make_optimizers(model, rate, blocks)
        self.fast = copy.deepcopy(model).bfloat16()
        self._pairs = list(zip(model.parameters(), self.fast.parameters()))

    def update(self, rate: float) -> None:
        """One step of both optimizers with the gradients that lie on the copy, which then follows the model."""
        for master, fast in self._pairs:
            master.grad, fast.grad = None if fast.grad is None else fast.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        with torch.no_grad():
            for master, fast in self._pairs:
                fast.copy_(master)


# ---------------------------------------------------------------- checkpoints

def save_state(folder: Path, trainer: Trainer, rng: random.Random, step: int, **more: object) -> None:
    """Written beside and renamed, so that an interruption never leaves half a checkpoint. `more`: of the recipe."""
    beside = folder / (STATE_FILE + ".new")
    torch.save(dict(model=trainer.model.state_dict(), optimizers=[o.state_dict() for o in trainer.optimizers],
                    rng=rng.getstate(), torch_rng=torch.get_rng_state(), step=step, **more), beside)
    os.replace(beside, folder / STATE_FILE)


def read_state(folder: Path) -> dict | None:
    """What `save_state` wrote in `folder`; None if there is nothing yet."""
    file = folder / STATE_FILE
    return torch.load(file, weights_only=False) if file.exists() else None  # the recipe's own file


def restore(trainer: Trainer, rng: random.Random, state: dict) -> int:
    """Put the trainer and both generators where they were; returns the next step."""
    trainer.model.load_state_dict(state["model"])
    trainer.fast.load_state_dict(state["model"])
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"]):
        optimizer.load_state_dict(saved)
    rng.setstate(state["rng"])
    torch.set_rng_state(state["torch_rng"])
    return state["step"]

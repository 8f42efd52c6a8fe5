"""Importance-guided fine-tuning: train only some groups of neurons or heads, and see what is learnt and what forgotten.

A group owns the weights that lead into its units and those that lead out of them. Everything else is held exactly as it
was. The model that is handed in never changes: a copy is trained.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import nn
from tqdm import tqdm

from ..engine import Family, judged_logits, require_family, sweep
from ..errors import CourseError
from ..metrics import Outcome
from ..models import Prompts, like, plain_copy, shape_of
from .groups import Groups
from .importance import Estimate, standard_error

Marks = dict[str, Bool[torch.Tensor, "..."]]


@dataclass(frozen=True)
class Examples:
    """Prompts and the outcome that is to grow on them, such as `LogProbability(answers)`; the loss is minus its mean.

    classes: those that must all occur among the answers; None: all classes of a classifier, any of a language model.
    """
    prompts: Prompts
    outcome: Outcome
    classes: Iterable[int] | None = None


@dataclass(frozen=True)
class FineTuned:
    """A trained copy (frozen again), its learning curves, and how many numbers were trained.

    curves: one row for each measurement (step, examples, outcome, standard_error, prompts, seed).
    """
    model: object
    curves: pd.DataFrame
    trained: int


def finetune(model, examples: Examples, groups: Groups | None = None, chosen: Iterable[int] | None = None, *,
             held_out: dict[str, Examples] | None = None, steps: int = 100, batch_size: int = 16, rate: float = 1e-3,
             weight_decay: float = 0.01, every: int = 20, seed: int = 0, progress: str | None = None) -> FineTuned:
    """Train the weights of the `chosen` groups, or (None) all weights, by AdamW without dropout.

    Every `every` steps the outcome is measured on "training" and on all of `held_out`: examples not trained on, and
    other tasks, to see what is forgotten. The same seed gives the same batches and the same curves.
    Raises CourseError for an empty set of groups, units without weights of their own, an example set with a class
    missing, or steps, batch_size or every below 1.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("every", every)):
        if value < 1:
            raise CourseError(f"{name} must be at least 1, not {value}")
    _require_classes(model, examples)
    if chosen is not None and groups is None:
        raise CourseError("chosen names groups, but there are none: give groups too, or leave chosen out to train all")
    trained = plain_copy(model)
    marks = _everything(trained) if chosen is None else owned(trained, groups, chosen)
    measured, rows = {"training": examples, **(held_out or {})}, []
    generator, n = torch.Generator().manual_seed(seed), len(examples.prompts)
    training = _MarkedTraining(trained, marks, rate, weight_decay)
    for step in tqdm(range(steps + 1), desc=progress, disable=progress is None, leave=False):
        if step % every == 0 or step == steps:
            rows += [(step, name, *_measure(trained, part), len(part.prompts), seed) for name, part in measured.items()]
        if step < steps:
            batch = torch.randperm(n, generator=generator)[:batch_size].to(examples.prompts.tokens.device)
            training.step(-examples.outcome(judged_logits(trained, examples.prompts, batch), batch).mean())
    curves = pd.DataFrame(rows, columns=["step", "examples", "outcome", "standard_error", "prompts", "seed"])
    return FineTuned(like(model, trained), curves, sum(int(mark.sum()) for mark in marks.values()))


class _MarkedTraining:
    """AdamW that moves marked numbers only: after each step the others are written back as they were.

    AdamW treats every number by itself, so marked ones move as they would if the others had no gradient.
    """

    def __init__(self, model: nn.Module, marks: Marks, rate: float, weight_decay: float):
        own = dict(model.named_parameters())
        for name, parameter in own.items():
            parameter.requires_grad_(name in marks)
        self.parts = [(own[name], mark, own[name].detach().clone()) for name, mark in marks.items()]
        self.optimiser = torch.optim.AdamW([own[name] for name in marks], lr=rate, weight_decay=weight_decay)

    def step(self, loss: Float[torch.Tensor, ""]) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            for parameter, mark, before in self.parts:
                parameter.copy_(torch.where(mark, parameter, before))


def _measure(model, examples: Examples) -> tuple[float, float]:
    """Mean outcome over prompts and its standard error."""
    values = sweep(model, examples.prompts, [[]], examples.outcome)
    return float(values.mean()), float(standard_error(values)[0])


def _require_classes(model, examples: Examples) -> None:
    wanted, answers = examples.classes, getattr(examples.outcome, "answer", None)
    if wanted is None and "SequenceClassification" in type(model).__name__:
        wanted = range(model.config.num_labels)
    if wanted is None or answers is None:
        return
    missing = sorted(set(wanted) - set(answers.tolist()))
    if missing:
        absent, held = (", ".join(map(str, sorted(numbers))) for numbers in (missing, set(answers.tolist())))
        raise CourseError(f"class {absent} is missing from the fine-tuning set, which holds only {held}: a model would "
                          "learn never to say it")


# ---------------------------------------------------------------- which weights belong to a group

def _everything(model: nn.Module) -> Marks:
    return {name: torch.ones_like(parameter, dtype=torch.bool) for name, parameter in model.named_parameters()}


def owned(model, groups: Groups, chosen: Iterable[int]) -> Marks:
    """The weights of a plain Hugging Face model that lead into or out of the units of these groups.

    {parameter: True where a number belongs to them}; parameters without any are left out. Biases of what leads out
    belong to nobody, nor do keys and values that several heads share.
    Raises CourseError for no group, other kinds than neurons and heads, or a family that is not known.
    """
    chosen = groups.named(chosen, "train")
    family = require_family(model)
    if groups.kind not in ("mlp_post", "z"):
        raise CourseError(f"units of {groups.kind!r} have no weights of their own to train: choose neurons "
                          "('mlp_post') or heads ('z')")
    if family.down is None and groups.kind == "mlp_post":
        raise CourseError("the experts of this model share the work of an MLP, so no neuron has weights of its own")
    groups.validate(model)
    marks, units = {}, {}
    for layer, unit in (member for g in chosen for member in groups.members[g]):
        units.setdefault(layer, []).append(unit)
    for layer, own in units.items():
        for path, columns, leads_in in _weights_of(model, family, groups.kind, layer, own):
            _mark(model, path, columns, leads_in, marks)
    return marks


def _weights_of(model, family: Family, kind: str, layer: int, units: Sequence[int]):
    """(module, its columns on the side of the units, whether it leads into them) for units of one layer."""
    prefix, projection = f"{family.blocks}.{layer}.", family.out
    if kind == "mlp_post":
        return [(prefix + path, units, path != family.down) for path in (*family.up, family.down)]
    total = shape_of(model)[1]
    leads_out = model.get_submodule(prefix + projection)
    size = _sides(leads_out)[1] // total
    columns = [unit * size + i for unit in units for i in range(size)]
    if len(family.qkv) == 1 and family.by_head:
        inside = [(prefix + family.qkv[0], [3 * unit * size + i for unit in units for i in range(3 * size)], True)]
    elif len(family.qkv) == 1:
        inside = [(prefix + family.qkv[0], [part * total * size + c for part in range(3) for c in columns], True)]
    else:
        inside = [(prefix + path, columns, True) for path in family.qkv
                  if _sides(model.get_submodule(prefix + path))[0] == total * size]
    return [*inside, (prefix + projection, columns, False)]


def _sides(module: nn.Module) -> tuple[int, int]:
    """(what goes out, what comes in): the axes of a Linear's weight; GPT-2's Conv1D has them the other way round."""
    return tuple(module.weight.shape) if isinstance(module, nn.Linear) else tuple(module.weight.shape[::-1])


def _mark(model, path: str, columns: Sequence[int], leads_in: bool, marks: Marks) -> None:
    module = model.get_submodule(path)
    axis = int(isinstance(module, nn.Linear) != leads_in)
    for name, where in (("weight", axis), ("bias", 0 if leads_in else None)):
        parameter = getattr(module, name, None)
        if parameter is not None and where is not None:
            mark = marks.setdefault(f"{path}.{name}", torch.zeros_like(parameter, dtype=torch.bool))
            mark.index_fill_(where, torch.tensor(columns, device=mark.device), True)


# ---------------------------------------------------------------- important, random, everything

def compare_finetuning(model, examples: Examples, groups: Groups, importance: Estimate, number: int, *,
                       seeds: Sequence[int] = (0, 1, 2), **options) -> pd.DataFrame:
    """Learning curves of three choices: the `number` most important groups, as many others at random, everything.

    The rows of `FineTuned.curves` for each choice and seed, with `choice` and `trained`. A seed draws the batches and,
    for "random", the groups, which are never among the important ones. `options` go to `finetune`.
    Raises CourseError for a number that leaves too few groups to draw from, or importance of other groups.
    """
    if len(importance.table) != len(groups) or "other" in importance.table:
        raise CourseError(f"importance has {len(importance.table)} rows for {len(groups)} groups: estimate it for "
                          "these groups, one by one")
    if not 1 <= number <= len(groups) // 2:
        raise CourseError(f"{number} important groups of {len(groups)} leave no {number} others to compare with: "
                          f"choose 1 to {len(groups) // 2}")
    important = importance.table.nlargest(number, "estimate").group.tolist()
    rest, tables = sorted(set(range(len(groups))) - set(important)), []
    for seed in seeds:
        drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:number].tolist()
        for choice, own in (("important", important), ("random", [rest[i] for i in drawn]), ("everything", None)):
            result = finetune(model, examples, groups, own, seed=seed, **options)
            tables.append(result.curves.assign(choice=choice, trained=result.trained))
    return pd.concat(tables, ignore_index=True)

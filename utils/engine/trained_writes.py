"""One activation written again and again: everything below it is computed once, and gradients flow to what is written.

`freeze` serves whoever *trains* what is written, as distributed alignment search does. Sweeps of fixed interventions are
`interventions.sweep`.
"""
from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int

from ..models import Prompts
from . import hook_path, interventions
from .anatomy import Anatomy
from .forks import stage_of
from .passes import Plan, Strand, full_pass
from .sites import Site, positions_of
from .sweeps import grow
from .writing import Do, Frame

Values = Float[torch.Tensor, "row position width"]


@runtime_checkable
class Frozen(Protocol):
    """Some inputs, run once. values: what the activation is on each, [input, position, width], without gradient."""
    values: Values

    def __len__(self) -> int: ...

    def logits(self, index: Int[torch.Tensor, "row"], values: Values) -> Float[torch.Tensor, "row output"]:
        """The logits at the end of input `index` of each row if the activation is `values`; they carry gradients."""


def freeze(model, prompts: Prompts, site: Site) -> Frozen:
    """Run the model once on these prompts, ready to write at `site` (whole, some heads or units; all or some positions).

    Only the layers above the site and the positions from its first one on are computed for each row. Models whose pieces
    the engine does not know run in full for each row, by hooks. The model must not change meanwhile.
    Raises CourseError for a site that the model or the prompts do not have.
    """
    interventions.check(model, prompts, [site])
    anatomy = interventions.anatomy_for(model, prompts, [site])
    return _InPieces(anatomy, prompts, site) if anatomy else _Hooked(model, prompts, site)


def _with_positions(found: torch.Tensor, site: Site) -> Values:
    return found[:, None] if site.single else found


class _InPieces:
    """The base run of all inputs; rows continue from it at the stage of the site."""

    def __init__(self, anatomy: Anatomy, prompts: Prompts, site: Site):
        self.anatomy, self.prompts, self.site = anatomy, prompts, site
        everyone, width = torch.arange(len(prompts), device=prompts.tokens.device), prompts.tokens.shape[1]
        plan = Plan(anatomy.model, everyone, keep=[site])
        with torch.no_grad():
            self.base = full_pass(anatomy, prompts, plan)
        self.values = _with_positions(plan.found[site], site)
        self.first = int(min((positions_of(site, width, everyone) % width).min(), prompts.ends.min()))
        self.stage = stage_of(Do(site, 0.0))

    def __len__(self) -> int:
        return len(self.prompts)

    def logits(self, index: Int[torch.Tensor, "row"], values: Values) -> Float[torch.Tensor, "row output"]:
        plan = Plan(self.anatomy.model, index)
        plan.add(Do(self.site, lambda current: values), None)
        joins = torch.full_like(index, self.stage)
        strand = Strand(plan, Frame(self.prompts.tokens.shape[1], self.first), self.prompts.ends[index], index, joins,
                        torch.full_like(index, -1))
        return self.anatomy.readout.logits(grow(self.anatomy, self.base, [strand]))


class _Hooked:
    """The model itself, with a hook at the site."""

    def __init__(self, model, prompts: Prompts, site: Site):
        self.model, self.prompts, self.site = model, prompts, site
        with torch.no_grad():
            self.values = _with_positions(hook_path.read(model, prompts, [site], [], True)[1][site], site)

    def __len__(self) -> int:
        return len(self.prompts)

    def logits(self, index: Int[torch.Tensor, "row"], values: Values) -> Float[torch.Tensor, "row output"]:
        rows = torch.arange(len(index), device=index.device)
        with hook_path.Hooks(len(index), self.prompts.tokens.shape[1]) as hooks:
            hook_path.attach(hooks, self.model, [(Do(self.site, lambda current: values), rows, index)])
            logits = hook_path.judged_logits(self.model, self.prompts, index)
            hooks.require_called()
            return logits

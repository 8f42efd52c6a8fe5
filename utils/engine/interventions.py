"""The engine: run a model, read activations, and write other values in their place.

A `Site` names an activation, a `Do` says what is written there. `run` and `read` make one forward pass; `sweep` runs
many different interventions on the same prompts as rows of shared batches. All take a `TransformerBridge` or a
Hugging Face GPT-2, Llama, Qwen, GPT-NeoX or BERT as it is.

Two paths give the same numbers: `sweeps` computes only what an intervention can change (causal models whose pieces it
knows), `hook_path` calls the model itself with hooks (all others).
"""
from __future__ import annotations

from typing import Callable, Iterable, Sequence

import torch
from jaxtyping import Float

from ..errors import CourseError
from ..metrics import Outcome, require_outcome_for
from ..models import Prompts, modules_of, shape_of
from . import hook_path, passes, sweeps
from .anatomy import Anatomy, anatomy_of
from .passes import count_arithmetic
from .preconditions import require_same_end, require_sound, require_usable
from .sites import Each, Site, address, heads_at, validate
from .sweeps import prompts_at_once
from .trust import require_finite, two_prompts
from .writing import Do, validate_value

__all__ = ["Do", "Each", "Site", "at_end", "count_arithmetic", "heads_at", "prompts_at_once",
           "read", "run", "shape_of", "sweep"]

Modules = Sequence[torch.nn.Module] | None  # all of the model, if the caller has walked it


def _as_prompts(prompts: Prompts | torch.Tensor) -> Prompts:
    if isinstance(prompts, Prompts):
        return prompts
    ends = torch.full((len(prompts),), prompts.shape[1] - 1, device=prompts.device)
    return Prompts(prompts, torch.ones_like(prompts), ends, ())


def check(model, prompts: Prompts, sites: Iterable[Site], interventions: Iterable[Do] = (),
          modules: Modules = None) -> None:
    """Raise CourseError for a model that cannot be trusted as it is, and for prompts, sites or values that do not fit it or
    each other."""
    require_usable(modules or modules_of(model))
    require_sound(model, prompts)
    once = {id(do): do for do in interventions}.values()  # rows of a sweep share many of theirs
    sites = [*sites, *(do.site for do in once)]
    for site in sites:
        validate(model, site, prompts.tokens)
    require_same_end(sites, prompts)
    for do in once:
        validate_value(do, len(prompts))


def _equal(anatomy: Anatomy, prompts: Prompts) -> bool:
    """True if the pieces, put together again, give the logits of the model itself (on the longest prompt)."""
    longest = prompts.ends.argmax()
    one = _as_prompts(prompts.tokens[longest:longest + 1, :prompts.ends[longest] + 1])
    (ours, _), (own, _) = passes.read(anatomy, one, [], [], True), hook_path.read(anatomy.model, one, [], [], True)
    require_finite(own)
    return ours.shape == own.shape and bool((ours - own).abs().max() <= 1e-5 * (own.max() - own.min()))


def anatomy_for(model, prompts: Prompts, sites: Iterable[Site], modules: Modules = None) -> Anatomy | None:
    """The pieces of the model where they may be used. Raises CourseError for an activation that the model does not have."""
    wanted = {(site.kind, site.layer) for site in sites}
    patterns = any(kind == "pattern" for kind, _ in wanted)      # a pass through the pieces never computes them
    anatomy = None if patterns else anatomy_of(model, prompts, _equal, modules)
    for kind, layer in wanted:
        if anatomy is None or (kind == "resid_mid" and anatomy.blocks[layer].parallel):
            address(model, Site(kind, layer))
    return anatomy


def mlp_alone(model, layer: int) -> Callable[[Float[torch.Tensor, "*batch width"]], Float[torch.Tensor, "*batch width"]]:
    """What the MLP of one layer adds to the stream, as a function of the stream that it reads.

    Raises CourseError for a model whose pieces do not give its own logits, or are not known.
    """
    anatomy = anatomy_for(model, two_prompts(model), [])
    if anatomy is None:
        raise CourseError("an MLP of this model cannot be run by itself: the pieces of its family are not known, or do not "
                          "give the model's own logits")
    block = anatomy.blocks[layer]

    def added(stream: torch.Tensor) -> torch.Tensor:
        return block.down(block.up(block.norm2(stream)))
    return added


# ---------------------------------------------------------------- what callers use

def run(model, prompts: Prompts | torch.Tensor, interventions: Iterable[Do] = ()) -> Float[torch.Tensor, "prompt position vocab"]:
    """One forward pass of all prompts with the same interventions; logits [prompt, position, vocab].

    Raises CourseError for a site out of range.
    """
    return read(model, prompts, (), interventions)[0]


@torch.no_grad()
def read(model, prompts: Prompts | torch.Tensor, sites: Iterable[Site], interventions: Iterable[Do] = (), *,
         end_only: bool = False) -> tuple[torch.Tensor, dict[Site, torch.Tensor]]:
    """Logits and the activations at `sites`, each [prompt, position, width] after positions, head or units were chosen.

    A site with a single position drops that axis. Activations are read after the interventions have been written.
    `end_only` gives the logits at the last real position of every prompt, [prompt, vocab].
    """
    prompts, sites, interventions = _as_prompts(prompts), list(sites), list(interventions)
    modules = modules_of(model)
    check(model, prompts, sites, interventions, modules)
    anatomy = anatomy_for(model, prompts, [*sites, *(do.site for do in interventions)], modules)
    path, model = (hook_path, model) if anatomy is None else (passes, anatomy)
    return path.read(model, prompts, sites, interventions, end_only)


@torch.no_grad()
def sweep(model, prompts: Prompts, rows: Sequence[Sequence[Do]], outcome: Outcome, *, always: Sequence[Do] = (),
          batch_size: int = 128, progress: str | None = None) -> Float[torch.Tensor, "row prompt"]:
    """The outcome of every row of interventions on every prompt, [row, prompt].

    A row is a list of `Do` that act together; an empty row is the plain run. `always` acts in every row, before what the
    row writes itself. Rows and prompts share batches of no more than `batch_size` whole prompts' tokens; its size changes
    memory and time, not the numbers.
    `progress` names a progress bar.
    """
    if batch_size < 1:
        raise CourseError(f"batch_size must be at least 1, not {batch_size}")
    every = [*always, *(do for row in rows for do in row)]
    modules = modules_of(model)
    check(model, prompts, (), every, modules)
    require_outcome_for(outcome, len(prompts))
    anatomy = anatomy_for(model, prompts, {do.site for do in {id(do): do for do in every}.values()}, modules)
    path, model = (hook_path, model) if anatomy is None else (sweeps, anatomy)
    return path.sweep(model, prompts, rows, outcome, always, batch_size, progress)


def at_end(model, prompts: Prompts, interventions: Iterable[Do] = ()) -> Float[torch.Tensor, "prompt vocab"]:
    """Logits at the last real position of every prompt, [prompt, vocab]; of a classifier, [prompt, class]."""
    return read(model, prompts, (), interventions, end_only=True)[0]

"""The engine: run a model, read activations, and write other values in their place.

A `Site` names an activation, a `Do` says what is written there. `run` and `read` make one forward pass; `sweep` runs
many different interventions on the same prompts as rows of shared batches. All three take a `TransformerBridge` or a
Hugging Face GPT-2, Llama, Qwen, GPT-NeoX or BERT as it is. Hooks never outlive a call, also when it raises.
"""
from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from tqdm import tqdm

from .metrics import Outcome
from .models import CourseError, Prompts
from .sites import Address, Each, Site, address, columns_of, heads_at, is_bridge, positions_of, shape_of, validate

__all__ = ["Do", "Each", "Site", "at_end", "heads_at", "read", "run", "shape_of", "sweep"]


@dataclass(frozen=True)
class Do:
    """Write `value` at `site`.

    value: a number; a tensor that broadcasts to the chosen slice [prompt, position, width] (its first axis is the
    prompt if it has three axes, or two with a single position); or a function from the current slice to the new one.
    """
    site: Site
    value: float | torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


def _validate_value(do: Do, prompts: int) -> None:
    if isinstance(do.value, torch.Tensor) and do.value.dim() > 2 - do.site.single:
        if do.value.dim() > 3 or len(do.value) not in (1, prompts):
            raise CourseError(f"the value for {do.site.kind!r} has shape {tuple(do.value.shape)}: its first axis must "
                              f"be the {prompts} prompts, or 1")


# ---------------------------------------------------------------- hooks

def _hook(stack: ExitStack, where: Address, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Call `change` on an activation whenever it is computed; None leaves it as it is. Removed with the stack."""
    def swap(value):
        tensor = value[0] if isinstance(value, tuple) else value
        new = change(tensor)
        return None if new is None else (new, *value[1:]) if isinstance(value, tuple) else new

    def before(module, args, kwargs):
        if args:
            new = swap(args)
            return None if new is None else (new, kwargs)
        name = next(iter(kwargs))
        new = change(kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    if where.of_input:
        handle = where.module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = where.module.register_forward_hook(lambda module, args, output: swap(output))
    stack.callback(handle.remove)


def _forward(model, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Logits [row, position, vocab], or [row, class] for a classifier."""
    options = {} if mask is None or bool((mask == 1).all()) else {"attention_mask": mask}
    if is_bridge(model):
        return model(tokens, return_type="logits", prepend_bos=False, **options)
    return model(input_ids=tokens, **options).logits


def _tokens_and_mask(prompts: Prompts | torch.Tensor):
    return (prompts.tokens, prompts.mask) if isinstance(prompts, Prompts) else (prompts, None)


def _write(tensor: torch.Tensor, model, do: Do, rows: torch.Tensor, prompts: torch.Tensor) -> None:
    """Write one intervention into `rows` of an activation [row, position, width], in place."""
    where = rows[:, None], positions_of(do.site, tensor.shape[1], prompts)
    columns = columns_of(model, do.site, tensor.shape[-1])
    block = tensor[where]
    current, new = block[..., columns], do.value
    if callable(new):
        new = new(current)
        if new is None:
            raise CourseError(f"the function written at {do.site.kind!r} returned None: is `return` missing?")
    elif isinstance(new, torch.Tensor) and new.dim() >= 2:
        new = new if new.dim() == 3 else new[:, None] if do.site.single else new[None]
        new = new if len(new) == 1 else new[prompts]
    new = torch.as_tensor(new, dtype=tensor.dtype, device=tensor.device)
    try:
        block[..., columns] = new.expand_as(current)
    except RuntimeError:
        raise CourseError(f"a value of shape {tuple(new.shape)} does not fit {do.site.kind!r}, which is "
                          f"{tuple(current.shape)} here (prompt, position, width)") from None
    tensor[where] = block


def _attach(stack: ExitStack, model, plan: Sequence[tuple[Do, torch.Tensor, torch.Tensor]]) -> None:
    """Hook every site that `plan` writes to. plan: (what, rows of the batch, prompt of each of those rows).

    resid_mid can be caught only where the second norm reads it, while the stream passes beside the norm: what was written
    there is added to the block's output too (first of all, so that resid_post sees it).
    """
    by_site: dict[Site, list] = {}
    for entry in plan:
        by_site.setdefault(entry[0].site.whole, []).append(entry)
    for site, entries in sorted(by_site.items(), key=lambda item: item[0].kind != "resid_mid"):
        written = []

        def change(tensor, entries=entries, written=written if site.kind == "resid_mid" else None):
            flat = tensor.flatten(2).clone()
            for do, rows, prompts in entries:
                _write(flat, model, do, rows, prompts)
            new = flat.view_as(tensor)
            if written is not None:
                written.append(new - tensor)
            return new
        _hook(stack, address(model, site), change)
        if site.kind == "resid_mid":
            after = address(model, Site("resid_post", site.layer))
            _hook(stack, after, lambda out, written=written: out + written.pop())


# ---------------------------------------------------------------- what callers use

@torch.no_grad()
def run(model, prompts: Prompts | torch.Tensor, interventions: Iterable[Do] = ()) -> Float[torch.Tensor, "prompt position vocab"]:
    """One forward pass of all prompts with the same interventions; logits [prompt, position, vocab].

    Raises CourseError for a site out of range.
    """
    return read(model, prompts, (), interventions)[0]


@torch.no_grad()
def read(model, prompts: Prompts | torch.Tensor, sites: Iterable[Site],
         interventions: Iterable[Do] = ()) -> tuple[torch.Tensor, dict[Site, torch.Tensor]]:
    """Logits and the activations at `sites`, each [prompt, position, width] after positions, head or units were chosen.

    A site with a single position drops that axis. Activations are read after the interventions have been written.
    """
    tokens, mask = _tokens_and_mask(prompts)
    sites, everyone = list(sites), torch.arange(len(tokens), device=tokens.device)
    interventions = list(interventions)
    for site in [*sites, *(do.site for do in interventions)]:
        validate(model, site, tokens)
    for do in interventions:
        _validate_value(do, len(tokens))
    found: dict[Site, torch.Tensor] = {}
    with ExitStack() as stack:
        _attach(stack, model, [(do, everyone, everyone) for do in interventions])
        for site in sites:
            def keep(tensor, site=site):
                flat = tensor.flatten(2)
                where = everyone[:, None], positions_of(site, flat.shape[1], everyone)
                chosen = flat[where][..., columns_of(model, site, flat.shape[-1])].clone()
                found[site] = chosen[:, 0] if site.single else chosen
            _hook(stack, address(model, site), keep)
        logits = _forward(model, tokens, mask)
    return logits, found


@torch.no_grad()
def sweep(model, prompts: Prompts, rows: Sequence[Sequence[Do]], outcome: Outcome, *, always: Sequence[Do] = (),
          batch_size: int = 256, progress: str | None = None) -> Float[torch.Tensor, "row prompt"]:
    """The outcome of every row of interventions on every prompt, [row, prompt].

    A row is a list of `Do` that act together; an empty row is the plain run. `always` acts in every row, before what the
    row writes itself. Rows and prompts share batches of `batch_size`; its size changes memory and time, not the numbers.
    `progress` names a progress bar.
    """
    rows = [[*always, *row] for row in rows]
    if batch_size < 1:
        raise CourseError(f"batch_size must be at least 1, not {batch_size}")
    for row in rows:
        for do in row:
            validate(model, do.site, prompts.tokens)
            _validate_value(do, len(prompts))
    n, total = len(prompts), len(rows) * len(prompts)
    result = torch.zeros(total)
    starts = range(0, total, batch_size)
    for start in tqdm(starts, desc=progress, disable=progress is None, leave=False):
        flat = torch.arange(start, min(start + batch_size, total))
        which_row, which_prompt = flat // n, (flat % n).to(prompts.tokens.device)
        plan = []
        for r in which_row.unique().tolist():
            members = (which_row == r).nonzero().flatten().to(prompts.tokens.device)
            plan += [(do, members, which_prompt[members]) for do in rows[r]]
        with ExitStack() as stack:
            _attach(stack, model, plan)
            logits = _forward(model, prompts.tokens[which_prompt], prompts.mask[which_prompt])
        result[flat] = outcome(_last(logits, prompts.ends[which_prompt]), which_prompt).float().cpu()
    return result.view(len(rows), n)


def at_end(model, prompts: Prompts, interventions: Iterable[Do] = ()) -> Float[torch.Tensor, "prompt vocab"]:
    """Logits at the last real position of every prompt, [prompt, vocab]; of a classifier, [prompt, class]."""
    return _last(run(model, prompts, interventions), prompts.ends)


def _last(logits: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return logits[torch.arange(len(ends), device=ends.device), ends] if logits.dim() == 3 else logits

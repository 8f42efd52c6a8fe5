"""The plain path: hooks on the model's own forward pass, one row of a batch for each row of interventions.

It serves every model that the engine can name activations in: bidirectional ones, unknown ones, those on which somebody left
hooks. `sweeps` must give the same numbers; hooks never outlive a call, also when it raises.
"""
from __future__ import annotations

from contextlib import ExitStack
from typing import Callable, Sequence

import torch
from jaxtyping import Float, Int
from tqdm import tqdm

from ..metrics import Outcome
from ..models import Prompts, is_bridge
from .patterns import catch, flat, is_plain_pattern, unflat
from .sites import Address, Site, address, marks_spans
from .writing import Do, Frame, pick, write


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


def hook_site(stack: ExitStack, model, site: Site, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """`_hook` for the activation that a site names; `change` gets and gives it as [row, position, width]."""
    def flattened(tensor):
        new = change(flat(tensor, site.kind))
        return None if new is None else unflat(new, tensor, site.kind)

    where = address(model, site)                    # also refuses a site that this model does not have
    if is_plain_pattern(model, site.kind):
        catch(stack, model, site.layer, flattened)
    else:
        _hook(stack, where, flattened)


def _forward(model, prompts: Prompts, rows: Int[torch.Tensor, "row"]) -> torch.Tensor:
    """Logits of these prompts: [row, position, vocab], or [row, class] for a classifier.

    A model that marks spans gives [row, position, 2], the scores of a token as the first and as the last of the answer;
    at padding they are minus infinity.
    """
    tokens, mask = prompts.tokens[rows], prompts.mask[rows]
    options = {} if bool((mask == 1).all()) else {"attention_mask": mask}
    if is_bridge(model):
        return model(tokens, return_type="logits", prepend_bos=False, **options)
    if prompts.types is not None and hasattr(getattr(model, "config", None), "type_vocab_size"):
        options["token_type_ids"] = prompts.types[rows]
    output = model(input_ids=tokens, **options)
    if not marks_spans(model):
        return output.logits
    return torch.stack([output.start_logits, output.end_logits], -1).masked_fill(mask[..., None] == 0, -torch.inf)


def _judged(model, logits: torch.Tensor, ends: Int[torch.Tensor, "row"]) -> torch.Tensor:
    """What an outcome sees: the logits at the end of each prompt, [row, vocab]; classes and spans as they are."""
    if logits.dim() == 2 or marks_spans(model):
        return logits
    return logits[torch.arange(len(ends), device=ends.device), ends]


def judged_logits(model, prompts: Prompts, rows: Int[torch.Tensor, "row"]) -> torch.Tensor:
    """One pass of these prompts, as an outcome sees it; gradients flow where they are enabled."""
    return _judged(model, _forward(model, prompts, rows), prompts.ends[rows])


def attach(stack: ExitStack, model, plan: Sequence[tuple[Do, torch.Tensor, torch.Tensor]]) -> None:
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
            new = tensor.clone()
            for do, rows, prompts in entries:
                write(new, model, do, rows, prompts, Frame(new.shape[1]))
            if written is not None:
                written.append(new - tensor)
            return new
        hook_site(stack, model, site, change)
        if site.kind == "resid_mid":
            hook_site(stack, model, Site("resid_post", site.layer), lambda out, written=written: out + written.pop())


# ---------------------------------------------------------------- what interventions.py calls

def read(model, prompts: Prompts, sites: Sequence[Site], interventions: Sequence[Do],
         end_only: bool) -> tuple[torch.Tensor, dict[Site, torch.Tensor]]:
    """See `interventions.read`."""
    everyone = torch.arange(len(prompts), device=prompts.tokens.device)
    found: dict[Site, torch.Tensor] = {}
    with ExitStack() as stack:
        attach(stack, model, [(do, everyone, everyone) for do in interventions])
        for site in sites:
            def keep(tensor, site=site):
                found[site] = pick(tensor, model, site)
            hook_site(stack, model, site, keep)
        logits = _forward(model, prompts, everyone)
    return _judged(model, logits, prompts.ends) if end_only else logits, found


def sweep(model, prompts: Prompts, rows: Sequence[Sequence[Do]], outcome: Outcome, always: Sequence[Do],
          batch_size: int, progress: str | None) -> Float[torch.Tensor, "row prompt"]:
    """See `interventions.sweep`."""
    n, total = len(prompts), len(rows) * len(prompts)
    result = torch.zeros(total)
    for start in tqdm(range(0, total, batch_size), desc=progress, disable=progress is None, leave=False):
        flat = torch.arange(start, min(start + batch_size, total))
        which_row, which_prompt = flat // n, (flat % n).to(prompts.tokens.device)
        plan = []
        for r in which_row.unique().tolist():
            members = (which_row == r).nonzero().flatten().to(prompts.tokens.device)
            plan += [(do, members, which_prompt[members]) for do in [*always, *rows[r]]]
        with ExitStack() as stack:
            attach(stack, model, plan)
            logits = judged_logits(model, prompts, which_prompt)
        result[flat] = outcome(logits, which_prompt).float().cpu()
    return result.view(len(rows), n)

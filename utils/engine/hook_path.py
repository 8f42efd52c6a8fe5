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

from ..errors import CourseError
from ..metrics import Outcome
from ..models import Prompts, is_bridge
from .patterns import as_it_was, by_position, catch, is_plain_pattern
from .sites import Address, Site, address, marks_spans
from .writing import Do, Frame, pick, write


class Hooks:
    """Hooks for one forward pass of [row, position] tokens: `on` hangs one up, `require_called` says which were passed by.

    They are removed at the end of the `with` block, also when it raises.
    """

    def __init__(self, rows: int, positions: int):
        self.shape, self.stack = (rows, positions, -1), ExitStack()
        self.sites, self.called = [], set()

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def on(self, model, site: Site, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Call `change` on the activation, [row, position, width], when it is computed; None leaves it as it is."""
        where, number = address(model, site), len(self.sites)
        self.sites.append(site)

        def swap(raw: torch.Tensor) -> torch.Tensor | None:
            self.called.add(number)
            whole = by_position(raw, site.kind).reshape(self.shape)
            new = change(where.see(whole))
            return None if new is None else as_it_was(where.put(whole, new), raw, site.kind)
        if is_plain_pattern(model, site.kind):
            catch(self.stack, model, site.layer, swap)
        else:
            self.stack.callback(_hang(where, swap).remove)

    def require_called(self) -> None:
        """Raise CourseError for a site whose module took no part in the pass: nothing was read or written there."""
        silent = next((site for number, site in enumerate(self.sites) if number not in self.called), None)
        if silent is not None:
            where = "" if silent.layer is None else f" of layer {silent.layer}"
            raise CourseError(f"{silent.kind!r}{where} was never computed in this pass, so nothing can be read or "
                              "written there: this model passes by the module that should hold it")


def _hang(where: Address, swap: Callable[[torch.Tensor], torch.Tensor | None]):
    """A hook that exchanges the first input or the (first) output of a module for what `swap` makes of it."""
    def first_of(value):
        if not isinstance(value, tuple):
            return swap(value)
        new = swap(value[0])
        return None if new is None else (new, *value[1:])

    def before(module, args, kwargs):
        if args:
            new = first_of(args)
            return None if new is None else (new, kwargs)
        name = next(iter(kwargs))
        new = swap(kwargs[name])
        return None if new is None else (args, {**kwargs, name: new})

    def after(module, args, output):
        return first_of(output)
    if where.of_input:
        return where.module.register_forward_pre_hook(before, with_kwargs=True)
    return where.module.register_forward_hook(after)


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


def attach(hooks: Hooks, model, plan: Sequence[tuple[Do, torch.Tensor, torch.Tensor]]) -> None:
    """Hook every site that `plan` writes to. plan: (what, rows of the batch, prompt of each of those rows).

    In most families resid_mid can be caught only where the second norm reads it, while the stream passes beside the norm:
    what was written there is added to the block's output too (first of all, so that resid_post sees it).
    """
    by_site: dict[Site, list] = {}
    for entry in plan:
        by_site.setdefault(entry[0].site.whole, []).append(entry)
    for site, entries in sorted(by_site.items(), key=lambda item: item[0].kind != "resid_mid"):
        beside = [] if site.kind == "resid_mid" and address(model, site).of_input else None

        def change(tensor, entries=entries, beside=beside):
            new = tensor.clone()
            for do, rows, prompts in entries:
                write(new, model, do, rows, prompts, Frame(new.shape[1]))
            if beside is not None:
                beside.append(new - tensor)
            return new
        hooks.on(model, site, change)
        if beside is not None:
            hooks.on(model, Site("resid_post", site.layer), lambda out, beside=beside: out + beside.pop())


# ---------------------------------------------------------------- what interventions.py calls

def read(model, prompts: Prompts, sites: Sequence[Site], interventions: Sequence[Do],
         end_only: bool) -> tuple[torch.Tensor, dict[Site, torch.Tensor]]:
    """See `interventions.read`."""
    everyone = torch.arange(len(prompts), device=prompts.tokens.device)
    found: dict[Site, torch.Tensor] = {}
    with Hooks(*prompts.tokens.shape) as hooks:
        attach(hooks, model, [(do, everyone, everyone) for do in interventions])
        for site in sites:
            def keep(tensor, site=site):
                found[site] = pick(tensor, model, site)
            hooks.on(model, site, keep)
        logits = _forward(model, prompts, everyone)
        hooks.require_called()
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
        with Hooks(len(flat), prompts.tokens.shape[1]) as hooks:
            attach(hooks, model, plan)
            logits = judged_logits(model, prompts, which_prompt)
            hooks.require_called()
        result[flat] = outcome(logits, which_prompt).float().cpu()
    return result.view(len(rows), n)

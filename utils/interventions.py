"""The engine: run a model, read activations, and write other values in their place.

A `Site` names an activation, a `Do` says what is written there. `run` and `read` make one forward pass; `sweep` runs
many different interventions on the same prompts as rows of shared batches. All three take a `TransformerBridge` or a
Hugging Face GPT-2, Llama, Qwen, GPT-NeoX or BERT as it is. Hooks never outlive a call, also when it raises.
"""
from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from operator import index
from typing import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from .metrics import Outcome
from .models import CourseError, Prompts

KINDS = {
    "embed": "token embedding, before positions are added",
    "resid_pre": "residual stream entering a block",
    "resid_mid": "residual stream between attention and MLP",
    "resid_post": "residual stream leaving a block",
    "attn_out": "what attention adds to the stream",
    "mlp_out": "what the MLP adds to the stream",
    "z": "output of each head, before the output projection",
    "q": "queries of each head", "k": "keys of each head", "v": "values of each head",
    "mlp_post": "MLP neurons, after the activation function",
}
HEAD_KINDS = ("z", "q", "k", "v")
BRIDGE_NAMES = {"embed": "hook_embed", "z": "attn.hook_z", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v",
                "mlp_post": "mlp.hook_post"}


@dataclass(frozen=True)
class Each:
    """One position for each prompt: where the subject stands, where the prompt ends."""
    positions: tuple[int, ...]

    @staticmethod
    def of(positions: Iterable) -> Each:
        return Each(tuple(int(p) for p in positions))


@dataclass(frozen=True)
class Site:
    """An activation: what, in which layer, and optionally at which positions, head or units.

    position: an index (negative counts from the end of the padded row), a tuple of indices, `Each` (one per prompt) or
    None for all. head: for z, q, k, v. units: indices into the last axis (neurons, or columns of the stream).
    In BERT the stream is normalised after every sum: resid_pre is the normalised output of the block below.
    """
    kind: str
    layer: int | None = None
    position: int | tuple[int, ...] | Each | None = None
    head: int | None = None
    units: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise CourseError(f"no activation is called {self.kind!r}; choose one of: {', '.join(KINDS)}")
        if (self.layer is None) != (self.kind == "embed"):
            raise CourseError(f"{self.kind!r} " + ("belongs to no layer" if self.kind == "embed" else "needs a layer"))
        if self.head is not None and self.kind not in HEAD_KINDS:
            raise CourseError(f"{self.kind!r} is not divided into heads; those that are: {', '.join(HEAD_KINDS)}")
        if self.head is not None and self.units is not None:
            raise CourseError("a site names a head or units, not both")
        for name in ("layer", "position", "head", "units"):  # numbers of torch and numpy, lists and ranges are welcome
            value = getattr(self, name)
            if value is not None and not isinstance(value, Each):
                single = hasattr(value, "__index__") and not getattr(value, "ndim", 0)
                object.__setattr__(self, name, index(value) if single else Each.of(value).positions)

    @property
    def single(self) -> bool:
        """True if the site has one position in each prompt."""
        return isinstance(self.position, (int, Each))

    @property
    def whole(self) -> Site:
        """The same activation without a choice of positions, head or units."""
        return Site(self.kind, self.layer)


@dataclass(frozen=True)
class Do:
    """Write `value` at `site`.

    value: a number; a tensor that broadcasts to the chosen slice [prompt, position, width] (its first axis is the
    prompt if it has three axes, or two with a single position); or a function from the current slice to the new one.
    """
    site: Site
    value: float | torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


# ---------------------------------------------------------------- where activations live

@dataclass(frozen=True)
class Address:
    """A module and whether the activation is its first input or its (first) output."""
    module: torch.nn.Module
    of_input: bool


# blocks, attention, its output projection, second norm, MLP, its output projection, token embedding
FAMILIES = {
    "gpt2": ("transformer.h", "attn", "attn.c_proj", "ln_2", "mlp", "mlp.c_proj", "transformer.wte"),
    "llama": ("model.layers", "self_attn", "self_attn.o_proj", "post_attention_layernorm", "mlp", "mlp.down_proj",
              "model.embed_tokens"),
    "gpt_neox": ("gpt_neox.layers", "attention", "attention.dense", "post_attention_layernorm", "mlp",
                 "mlp.dense_4h_to_h", "gpt_neox.embed_in"),
    "bert": ("bert.encoder.layer", "attention.self", "attention.output.dense", None, "output.dense", "output.dense",
             "bert.embeddings.word_embeddings"),
}
FAMILIES |= {name: FAMILIES["llama"] for name in ("qwen2", "qwen3", "mistral", "gemma")}


def is_bridge(model) -> bool:
    return hasattr(model, "hook_dict") and hasattr(model, "original_model")


def address(model, site: Site) -> Address:
    """Find the module behind a site. Raises CourseError for a family or an activation that is not supported."""
    if is_bridge(model):
        name = BRIDGE_NAMES.get(site.kind, f"hook_{site.kind}")
        name = name if site.layer is None else f"blocks.{site.layer}.{name}"
        hooks = model.hook_dict
        if name not in hooks:
            raise CourseError(f"this model has no {site.kind!r} ({KINDS[site.kind]}) at layer {site.layer}")
        return Address(hooks[name], False)
    family = FAMILIES.get(model.config.model_type)
    if family is None:
        raise CourseError(f"models of type {model.config.model_type!r} are not supported as they are; supported: "
                          f"{', '.join(FAMILIES)} (or load them with utils.models.load_model)")
    blocks, attention, projection, norm, mlp, down, embed = family
    if site.kind == "embed":
        return Address(model.get_submodule(embed), False)
    block = model.get_submodule(blocks)[site.layer]
    if site.kind in ("resid_pre", "resid_post"):
        return Address(block, site.kind == "resid_pre")
    places = {"attn_out": (projection if family == FAMILIES["bert"] else attention, False), "resid_mid": (norm, True),
              "mlp_out": (mlp, False), "z": (projection, True), "mlp_post": (down, True)}
    path, of_input = places.get(site.kind, (None, False))
    parallel = site.kind == "resid_mid" and getattr(model.config, "use_parallel_residual", False)
    if parallel:
        raise CourseError("this model runs attention and MLP side by side, so it has no 'resid_mid' between them")
    if path is None:
        raise CourseError(f"{site.kind!r} cannot be reached in a {model.config.model_type!r} model as it is; "
                          "load it with utils.models.load_model")
    return Address(block.get_submodule(path), of_input)


def shape_of(model) -> tuple[int, int]:
    """(number of layers, number of heads)."""
    if is_bridge(model):
        return model.cfg.n_layers, model.cfg.n_heads
    return model.config.num_hidden_layers, model.config.num_attention_heads


def _as_tuple(position) -> tuple[int, ...]:
    if position is None:
        return ()
    return position.positions if isinstance(position, Each) else (position,) if isinstance(position, int) else position


def validate(model, site: Site, tokens: torch.Tensor | None = None) -> None:
    """Raise CourseError, with the range, for a layer, head or position that the model or the prompts do not have."""
    layers, heads = shape_of(model)[0], heads_at(model, site.kind)
    if site.layer is not None and not 0 <= site.layer < layers:
        raise CourseError(f"layer {site.layer} is out of range: this model has layers 0 to {layers - 1}")
    if site.head is not None and not 0 <= site.head < heads:
        raise CourseError(f"head {site.head} is out of range: each layer has heads 0 to {heads - 1} of {site.kind!r}")
    if tokens is None:
        return
    prompts, width = tokens.shape
    for position in _as_tuple(site.position):
        if not -width <= position < width:
            raise CourseError(f"position {position} is out of range: the prompts have positions 0 to {width - 1}")
    if isinstance(site.position, Each) and len(site.position.positions) != prompts:
        raise CourseError(f"Each names {len(site.position.positions)} positions for {prompts} prompts: give one for "
                          "each")


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


def _positions(site: Site, width: int, prompts: torch.Tensor) -> torch.Tensor:
    """The positions of a site in each row, [row, chosen position]; `prompts` says which prompt each row is."""
    if isinstance(site.position, Each):
        return torch.tensor(site.position.positions, device=prompts.device)[prompts, None]
    chosen = range(width) if site.position is None else _as_tuple(site.position)
    return torch.tensor(list(chosen), device=prompts.device).expand(len(prompts), -1)


def _columns(model, site: Site, width: int):
    """The part of the last axis that a site names."""
    if site.head is not None:
        size = width // heads_at(model, site.kind)
        return slice(site.head * size, (site.head + 1) * size)
    for unit in site.units or ():
        if not -width <= unit < width:
            raise CourseError(f"unit {unit} is out of range: {site.kind!r} has units 0 to {width - 1}")
    return slice(None) if site.units is None else list(site.units)


def heads_at(model, kind: str) -> int:
    """Number of heads of one kind of activation (keys and values may be shared by groups of query heads)."""
    if kind in ("k", "v"):
        config = model.cfg if is_bridge(model) else model.config
        shared = getattr(config, "n_key_value_heads", None) or getattr(config, "num_key_value_heads", None)
        return shared or shape_of(model)[1]
    return shape_of(model)[1]


def _write(tensor: torch.Tensor, model, do: Do, rows: torch.Tensor, prompts: torch.Tensor) -> None:
    """Write one intervention into `rows` of an activation [row, position, width], in place."""
    where = rows[:, None], _positions(do.site, tensor.shape[1], prompts)
    columns = _columns(model, do.site, tensor.shape[-1])
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
                where = everyone[:, None], _positions(site, flat.shape[1], everyone)
                chosen = flat[where][..., _columns(model, site, flat.shape[-1])].clone()
                found[site] = chosen[:, 0] if site.single else chosen
            _hook(stack, address(model, site), keep)
        logits = _forward(model, tokens, mask)
    return logits, found


@torch.no_grad()
def sweep(model, prompts: Prompts, rows: Sequence[Sequence[Do]], outcome: Outcome, *, batch_size: int = 256,
          progress: str | None = None) -> Float[torch.Tensor, "row prompt"]:
    """The outcome of every row of interventions on every prompt, [row, prompt].

    A row is a list of `Do` that act together; an empty row is the plain run. Rows and prompts share batches of
    `batch_size`; its size changes memory and time, not the numbers. `progress` names a progress bar.
    """
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

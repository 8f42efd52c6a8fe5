"""What every model is asked: each capability gives pairs of a result of `utils` and the same by the reference."""
from functools import lru_cache, partial

import torch
from reference import PATHS, at_end, contributions, naive
from small_models import LAYERS, WIDTH

from utils import decoding, patching
from utils.engine import Each, Site, freeze, read, run, sweep
from utils.masking import Groups, MaskingGame
from utils.patching import Receiver

from . import tracing
from .cases import CLEAN, CORRUPTED, KINDS, MIXED, OTHER, PROMPTS, Pair, Write, head_columns, put, real, row, writes_at

LAST = LAYERS - 1
STATES = [("resid_pre", layer) for layer in range(LAYERS)] + [("resid_post", LAST)]


def over_prompts(value):
    """`value` of each prompt, side by side on the last axis."""
    return torch.stack([torch.as_tensor(value(i)) for i in PROMPTS], -1)


# ---------------------------------------------------------------- run, read, sweep at one site

def at_site(kind, case):
    """Read everywhere; write (`cases.writes_at`) in a sweep, and the first and the last row in a run of its own."""
    if not case.has(kind):
        writes = [Write(kind, layer).do({}) for layer in case.layers(kind)]
        yield Pair("read", lambda: read(case.model, MIXED, [write.site for write in writes]), None)
        yield Pair("run", lambda: run(case.model, MIXED, writes), None)
        yield Pair("sweep", lambda: sweep(case.model, MIXED, [writes], case.outcome), None)
        return
    rows = [[], *writes_at(case, kind)]
    expected = lru_cache(maxsize=None)(
        lambda n, i: naive(case.name, row(MIXED, i), [write.edit(case, i) for write in rows[n]])[0])

    def dos():
        sites = {write.site for writes in rows for write in writes if write.value == "other"}
        values = read(case.model, OTHER, sites)[1]
        return [[write.do(values) for write in writes] for writes in rows]

    def logits(n):
        each = [expected(n, i) for i in PROMPTS]
        return torch.stack(each) if each[0].dim() == 1 else torch.cat(each)

    yield Pair("read", partial(read_everywhere, case, kind), lambda: torch.stack(
        [torch.cat([case.seen("mixed", i)[kind, layer] for i in PROMPTS]) for layer in case.layers(kind)]))
    yield Pair("sweep", lambda: sweep(case.model, MIXED, dos(), case.outcome), lambda: torch.stack(
        [over_prompts(lambda i: case.difference(i, expected(n, i))) for n in range(len(rows))]), True)
    for n in (1, len(rows) - 1):
        yield Pair(f"run with {rows[n]}", partial(lambda n: real(MIXED, run(case.model, MIXED, dos()[n])), n),
                   partial(logits, n))


def read_everywhere(case, kind):
    sites = [Site(kind, layer) for layer in case.layers(kind)]
    values = read(case.model, MIXED, sites)[1]
    return torch.stack([real(MIXED, values[site]) for site in sites])


# ---------------------------------------------------------------- from the stream to the logits

def lens(case):
    """Any state through the rest of the model: it takes the place of what the last block gives."""
    def rest(state, i):
        return at_end(case.name, naive(case.name, row(MIXED, i), [put("resid_post", LAST, state[None], [-1])])[0])

    vectors = 2 * torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    yield Pair("decode", lambda: decoding.decode(case.model, vectors), lambda: torch.stack([rest(v, 0) for v in vectors]))
    yield Pair("decode_layers", lambda: decoding.decode_layers(case.model, MIXED), lambda: torch.stack(
        [torch.stack([rest(case.seen("mixed", i)[state][-1], i) for i in PROMPTS]) for state in STATES]))
    yield Pair("last state", lambda: decoding.decode_layers(case.model, MIXED)[-1],
               lambda: torch.stack([at_end(case.name, case.logits("mixed", i)) for i in PROMPTS]))


def attribution(case):
    """All parts together are the logit difference of the model; what each MLP says."""
    yield Pair("total", lambda: decoding.direct_attribution(case.model, MIXED, case.outcome).total,
               lambda: over_prompts(lambda i: case.judged(MIXED, i)), True)
    yield Pair("MLPs", lambda: decoding.direct_attribution(case.model, MIXED, case.outcome).mlps,
               lambda: over_prompts(lambda i: said(case, i)[2]), True)


def attribution_by_heads(case):
    yield Pair("heads", lambda: decoding.direct_attribution(case.model, MIXED, case.outcome).heads,
               lambda: over_prompts(lambda i: said(case, i)[0]), True)


def said(case, i):
    """Direct contributions of (heads, attention, MLPs); only where one norm stands between the sum of all and the logits."""
    assert PATHS[case.name].get("final"), "here no part has a contribution of its own"
    return contributions(case.name, row(MIXED, i), *(answer[i] for answer in case.answers))


# ---------------------------------------------------------------- maps

def patched_cells(case, kind, cells):
    """Outcomes of the corrupted run with one cell of the clean one in it, [cell, prompt].

    cells: (layer, position, columns).
    """
    def one(layer, position, columns, i):
        return case.judged(CORRUPTED, i, put(kind, layer, case.seen("clean", i)[kind, layer], position, columns))
    return torch.stack([over_prompts(lambda i: one(*cell, i)) for cell in cells])


def whole(patch_map):
    """All cells in rows, and the two runs themselves."""
    return torch.cat([patch_map.patched.flatten(0, 1), patch_map.base[None], patch_map.source[None]])


def whole_by_hand(case, kind, cells):
    ends = [over_prompts(lambda i: case.difference(i, case.logits(which, i)))[None] for which in ("corrupted", "clean")]
    return torch.cat([patched_cells(case, kind, cells), *ends])


def map_over_positions(patch, kind, case):
    cells = [(layer, position, slice(None)) for layer in range(LAYERS) for position in range(CLEAN.tokens.shape[1])]
    yield Pair(kind, lambda: whole(patch(case.model, CLEAN, CORRUPTED, case.outcome)),
               lambda: whole_by_hand(case, kind, cells), True)


residual_map = partial(map_over_positions, patching.residual_map, "resid_pre")


def update_maps(case):
    for kind in ("attn_out", "mlp_out"):
        yield from map_over_positions(partial(patching.position_map, kind=kind), kind, case)


def head_map(kinds, case):
    for kind in kinds:
        yield Pair(kind, partial(head_map_of, case, kind), partial(head_map_by_hand, case, kind), True)


def head_map_of(case, kind):
    return whole(patching.head_map(case.model, CLEAN, CORRUPTED, case.outcome, positions=Each.of(CLEAN.ends), kind=kind))


def head_map_by_hand(case, kind):
    heads = range(case.heads(kind))
    cells = [(layer, -1, head_columns(case, kind, layer, head)) for layer in range(LAYERS) for head in heads]
    return whole_by_hand(case, kind, cells)


# ---------------------------------------------------------------- masks

def masks(kind, number, case):
    """Each of some groups of units dropped, and two together; zero and the mean over the prompts."""
    dropped = [(group,) for group in range(number)] + [(0, 2)]

    def game(ablation):
        groups = Groups.contiguous(case.model, kind, number)
        masking = MaskingGame(case.model, MIXED, case.outcome, groups, ablation=ablation)
        return masking(torch.stack([groups.drop(numbers).row for numbers in dropped]))

    def expected(ablation):
        mean = mean_of if ablation == "mean" else lambda case, kind, layer: 0.0
        parts = [grouped(case, kind, number, numbers) for numbers in dropped]
        return torch.stack([over_prompts(lambda i: case.judged(MIXED, i, *(
            put(kind, layer, mean(case, kind, layer), None, columns) for layer, columns in part.items())))
            for part in parts])

    for ablation in ("zero", "mean"):
        yield Pair(ablation, partial(game, ablation), partial(expected, ablation), True)


def mean_of(case, kind, layer):
    """The mean over all real positions of all prompts."""
    return torch.cat([case.seen("mixed", i)[kind, layer] for i in PROMPTS]).mean(0)


def grouped(case, kind, number, chosen):
    """The columns of each layer that belong to some of `number` equal groups of neighbours, {layer: columns}."""
    units = case.heads(kind) if kind == "z" else case.seen("mixed", 0)[kind, 0].shape[-1]
    size = case.seen("mixed", 0)[kind, 0].shape[-1] // units
    every = torch.arange(LAYERS * units).tensor_split(number)
    found = {}
    for unit in (unit for group in chosen for unit in every[group].tolist()):
        start = unit % units * size
        found.setdefault(unit // units, []).extend(range(start, start + size))
    return found


# ---------------------------------------------------------------- values swapped in, paths

def alignment_swap(case):
    """A base run that other values are swapped into, at one position of the stream and at two positions of a head."""
    index = torch.tensor([1, 0, 1])
    for kind, positions, head in [("resid_post", 2, None), ("z", (1, 3), 2)]:
        site = Site(kind, 1, positions, head)
        columns = slice(None) if head is None else head_columns(case, kind, 1, head)
        own = [torch.atleast_2d(case.seen("mixed", i)[kind, 1][positions, columns]) for i in PROMPTS]
        values = torch.stack(own)[index.flip(0)] + torch.randn(3, *own[0].shape, generator=torch.Generator().manual_seed(1))
        yield Pair(f"{kind}: values", partial(frozen_values, case, site), partial(torch.stack, own))
        yield Pair(f"{kind}: logits", partial(frozen_logits, case, site, index, values),
                   partial(swapped_logits, case, kind, positions, columns, index, values))


def frozen_values(case, site):
    return freeze(case.model, MIXED, site).values


def frozen_logits(case, site, index, values):
    return freeze(case.model, MIXED, site).logits(index, values).detach()


def swapped_logits(case, kind, positions, columns, index, values):
    found = []
    for i, value in zip(index.tolist(), values):
        whole = case.seen("mixed", i)[kind, 1].clone()
        whole[positions, columns] = value if isinstance(positions, tuple) else value[0]
        found.append(at_end(case.name, naive(case.name, row(MIXED, i), [put(kind, 1, whole, positions, columns)])[0]))
    return torch.stack(found)


def path_patching(case):
    """From a head of layer 0 to the logits, to the queries and to the values of a later head; MLPs free or held."""
    sender, logits = (0, 1), Receiver()
    for receiver, hold in [(logits, False), (logits, True), (Receiver("q", 2, 1), True), (Receiver("v", 2, 0), False)]:
        yield Pair(f"to {receiver.kind}" + (", MLPs held" if hold else ""),
                   partial(patching.path_patch, case.model, CLEAN, CORRUPTED, case.outcome, sender, [receiver],
                           freeze_mlps=hold),
                   partial(over_prompts, partial(path, case, sender, receiver, hold)), True)


def path(case, sender, receiver, hold, i):
    """Two runs: what arrives if the sender alone says what it says in the corrupted run; then only that arrives."""
    clean, layer, head = case.seen("clean", i), *sender
    held = [("z", n) for n in range(LAYERS)] + ([("mlp_out", n) for n in range(LAYERS)] if hold else [])
    edits = [put(kind, n, clean[kind, n]) for kind, n in held]
    edits.append(put("z", layer, case.seen("corrupted", i)["z", layer], None, head_columns(case, "z", layer, head)))
    target = ("resid_post", LAST) if receiver.kind == "logits" else (receiver.kind, receiver.layer)
    arrived = naive(case.name, row(CLEAN, i), edits, wanted=[target])[1][target]
    columns = slice(None) if receiver.head is None else head_columns(case, *target, receiver.head)
    return case.judged(CLEAN, i, put(*target, arrived, None, columns))


# ---------------------------------------------------------------- all of them

SITES = {kind: partial(at_site, kind) for kind in KINDS}
METHODS = {
    "lens": lens, "attribution": attribution, "by heads": attribution_by_heads, "residual map": residual_map,
    "update maps": update_maps, "head map z": partial(head_map, ("z",)),
    "head map q k v": partial(head_map, ("q", "k", "v")), "trace": tracing.trace, "head masks": partial(masks, "z", 4),
    "neuron masks": partial(masks, "mlp_post", 5),
    "swap": alignment_swap, "path": path_patching}

"""One model under test, prompts for it, and interventions as both sides take them: `utils` and the naive reference."""
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable

import torch
import transformers
from reference import PARALLEL, PATHS, at_end, naive
from small_models import HEADS, LAYERS, MODELS, bridge, folder_of, random_prompts

from utils.engine import Do, Each, Site
from utils.metrics import LogitDifference

KINDS = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_post")
HEAD_KINDS = ("z", "q", "k", "v")
LOADS = ("bridge", "plain")
MIXED, OTHER = random_prompts((7, 5), seed=3), random_prompts((7, 5), seed=4)
CLEAN, CORRUPTED = random_prompts((5, 5), seed=5), random_prompts((5, 5), seed=5)
CORRUPTED.tokens[:, 1:3] = random_prompts((2, 2), seed=6).tokens
PROMPTS = range(2)


@dataclass(frozen=True)
class Pair:
    """A result as `utils` gives it and as it should be; None for what no model of this architecture has.

    in_logits: differences count as a share of the range of the model's logits, else of the range of what is expected.
    """
    what: str
    found: Callable[[], torch.Tensor]
    expected: Callable[[], torch.Tensor] | None
    in_logits: bool = False


@dataclass(frozen=True)
class Case:
    """A family, as a bridge or as it is."""
    name: str
    load: str

    @property
    def model(self):
        """Loaded from its folder, as a student would."""
        return bridge(self.name) if self.load == "bridge" else _as_it_is(self.name)

    @property
    def answers(self):
        """Correct and wrong token (or class) of each prompt; classifiers have three classes or more."""
        return ((1, 0), (2, 2)) if self.name.endswith("classifier") else ((30, 71), (45, 28))

    @property
    def outcome(self):
        return LogitDifference(*map(torch.tensor, self.answers))

    def judged(self, prompts, i, *edits):
        """The outcome of prompt `i` with these edits, by the reference."""
        return self.difference(i, naive(self.name, row(prompts, i), edits)[0])

    def difference(self, i, logits):
        correct, wrong = self.answers
        ends = at_end(self.name, logits)
        return ends[correct[i]] - ends[wrong[i]]

    def heads(self, kind):
        return MODELS[self.name][1].get("num_key_value_heads", HEADS) if kind in ("k", "v") else HEADS

    def layers(self, kind):
        return (None,) if kind == "embed" else tuple(range(LAYERS))

    def has(self, kind):
        """True if the architecture has this activation."""
        return has(self.name, kind)

    def seen(self, which, i):
        """All activations of one prompt, by the reference: {(kind, layer): [position, width]}."""
        return _run(self.name, which, i)[1]

    def logits(self, which, i):
        return _run(self.name, which, i)[0]

    @property
    def range(self):
        """Largest minus smallest logit at the end of a prompt."""
        ends = at_end(self.name, self.logits("mixed", 0))
        return (ends.max() - ends.min()).item()


SETS = {"mixed": MIXED, "other": OTHER, "clean": CLEAN, "corrupted": CORRUPTED}


@lru_cache(maxsize=None)
def _run(name, which, i):
    wanted = [("embed", None)] + [(kind, layer) for kind in KINDS[1:] for layer in range(LAYERS) if has(name, kind)]
    return naive(name, row(SETS[which], i), wanted=wanted)


def has(name, kind):
    if kind == "resid_mid":
        return name not in PARALLEL
    return kind.startswith("resid") or kind in PATHS[name] or (kind in "qkv" and "qkv" in PATHS[name])


@lru_cache(maxsize=None)
def _as_it_is(name):
    return getattr(transformers, MODELS[name][0]).from_pretrained(folder_of(name)).eval()


def row(prompts, i):
    """The tokens of one prompt, without padding."""
    return prompts.tokens[i, :prompts.ends[i] + 1]


def real(prompts, values):
    """What stands at real positions of [prompt, position, ...], one after the other; classes have no positions."""
    if values.dim() < 3:
        return values
    return torch.cat([values[i, :end + 1] for i, end in enumerate(prompts.ends)])


# ---------------------------------------------------------------- an intervention, as both sides take it

@dataclass(frozen=True)
class Write:
    """value: a number, or "other": what the activation is in a run of the prompts OTHER."""
    kind: str
    layer: int | None
    value: float | str = 0.0
    position: int | Each | None = None
    head: int | None = None
    units: tuple[int, ...] | None = None

    @property
    def site(self):
        return Site(self.kind, self.layer, self.position, self.head, self.units)

    def do(self, other):
        """For `utils`; `other`: what was read at sites in a run of the prompts OTHER."""
        return Do(self.site, other[self.site] if self.value == "other" else self.value)

    def edit(self, case, i):
        """For `naive`, on prompt `i`."""
        value = case.seen("other", i)[self.kind, self.layer] if self.value == "other" else self.value
        position = self.position.positions[i] if isinstance(self.position, Each) else self.position
        return put(self.kind, self.layer, value, position, self.columns(case))

    def columns(self, case):
        if self.units is not None:
            return list(self.units)
        return slice(None) if self.head is None else head_columns(case, self.kind, self.layer, self.head)


def head_columns(case, kind, layer, head):
    size = case.seen("mixed", 0)[kind, layer].shape[-1] // case.heads(kind)
    return slice(head * size, (head + 1) * size)


def put(kind, layer, value, position=None, columns=slice(None)):
    """An edit for `naive`: what stands at these positions and columns of `value`: a number, [width] or [position, width]."""
    where = slice(None) if position is None else position

    def change(x):
        x = x.clone()
        x[where, columns] = torch.as_tensor(value).expand(x.shape)[where, columns]
        return x
    return kind, layer, change


def writes_at(case, kind):
    """Rows of a sweep: zero in each layer; values of another run at one position, at all, and in a head or some units at
    one position of each prompt; two layers together. A stream of zeros has no norm: there only half of it is written."""
    layers, middle = case.layers(kind), case.layers(kind)[len(case.layers(kind)) // 2]
    half = tuple(range(12)) if kind == "embed" or kind.startswith("resid") else None
    part = dict(head=1) if kind in HEAD_KINDS else dict(units=(3, 0, 5))
    rows = [[Write(kind, layer, units=half)] for layer in layers]
    rows += [[Write(kind, middle, "other", 2)], [Write(kind, middle, "other")],
             [Write(kind, middle, "other", Each((6, 3)), **part)]]
    return rows if kind == "embed" else [*rows, [Write(kind, 0, "other", 1), Write(kind, layers[-1], 0.0, 4, **part)]]

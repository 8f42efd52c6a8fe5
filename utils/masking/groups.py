"""Groups of the units of a model, and masks over them.

A unit is a neuron ("mlp_post"), a head ("z", "q", "k", "v") or a column of any other activation. `Groups` and `Mask`
are values: printed, compared, and groups saved as JSON. `utils.masking.game` measures what masks do.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int

from ..engine import HEAD_KINDS, Site, heads_at, read, validate, width_of
from ..errors import CourseError, several, whole_number, whole_numbers
from ..models import Prompts, shape_of

SAMPLES = 1000  # positions by which units are compared when they are clustered
Unit = tuple[int | None, int]  # (layer, neuron, head or column); the embedding belongs to no layer: (None, column)


def units_of(model, kind: str, layers: int | Iterable[int] | None = None) -> list[Unit]:
    """All units of one kind of activation, layer by layer; `layers` None means every layer.

    Raises CourseError for a kind or a layer that the model does not have.
    """
    if kind == "embed":
        layers = [None]
    elif layers is None:
        layers = range(shape_of(model)[0])
    sites = [Site(kind, layer) for layer in (layers if isinstance(layers, Iterable) else [layers])]
    for site in sites:
        validate(model, site)
    return [(site.layer, unit) for site in dict.fromkeys(sites) for unit in range(_units_in_a_layer(model, kind))]


def _units_in_a_layer(model, kind: str) -> int:
    if kind in HEAD_KINDS:
        return heads_at(model, kind)
    return width_of(model, kind)


@dataclass(frozen=True)
class Groups:
    """Groups of units that are masked together.

    members: the units (layer, unit) of each group; no unit is in two groups. The constructors below put every unit of
    the chosen layers into exactly one group, and their sizes differ by at most one; groups by hand may be of any size.
    `rule` says how they were made; it does not count when groups are compared.
    Raises CourseError for no group, an empty group, or a unit that comes twice.
    """
    kind: str
    members: tuple[tuple[Unit, ...], ...]
    rule: str = field(default="by hand", compare=False)

    def __post_init__(self):
        members = tuple(tuple(sorted(_as_units(group))) for group in several(self.members, "the groups"))
        object.__setattr__(self, "members", members)
        if not members:
            raise CourseError("there is no group: name at least one group of units")
        seen = set()
        for g, group in enumerate(members):
            if not group:
                raise CourseError(f"group {g} is empty: each group needs at least one unit")
            for layer, unit in group:
                Site(self.kind, layer)  # refuses an unknown kind, or a layer where there is none
                if (layer, unit) in seen:
                    raise CourseError(f"unit {unit} of layer {layer} is in two groups: each unit belongs to one")
                seen.add((layer, unit))

    # ------------------------------------------------------------ ways to make them

    @staticmethod
    def contiguous(model, kind: str, number: int, layers: int | Iterable[int] | None = None) -> Groups:
        """`number` groups of neighbours. Raises CourseError for more groups than units, as does `random`."""
        units = units_of(model, kind, layers)
        return Groups(kind, _split(units, number), "contiguous")

    @staticmethod
    def random(model, kind: str, number: int, layers: int | Iterable[int] | None = None, *, seed: int = 0) -> Groups:
        """`number` groups of units drawn without regard to where they are; the same seed gives the same groups."""
        units = units_of(model, kind, layers)
        order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed)).tolist()
        return Groups(kind, _split([units[i] for i in order], number), f"random, seed {seed}")

    @staticmethod
    def by_layer(model, kind: str, layers: int | Iterable[int] | None = None) -> Groups:
        """One group for each layer."""
        units = units_of(model, kind, layers)
        found = dict.fromkeys(layer for layer, _ in units)
        return Groups(kind, tuple(tuple(u for u in units if u[0] == layer) for layer in found), "by layer")

    @staticmethod
    def singles(model, kind: str, layers: int | Iterable[int] | None = None) -> Groups:
        """Every unit by itself: one group for each head."""
        return Groups(kind, tuple((unit,) for unit in units_of(model, kind, layers)), "every unit by itself")

    @staticmethod
    def clustered(model, prompts: Prompts, kind: str, number: int, layers: int | Iterable[int] | None = None, *,
                  seed: int = 0) -> Groups:
        """`number` groups of units that are active at the same tokens of `prompts`, in order of their first unit.

        A neuron is described by its activation at each real position (of more than 1,000, so many drawn with `seed`), a
        head by the length of its vector there, both brought to mean 0 and length 1: sizes and signs of the mean do not
        count. k-means finds the centres; units then go to the nearest that has room, so that sizes differ by one at
        most. Raises CourseError for more groups than units, or a single position.
        """
        units = units_of(model, kind, layers)
        sizes = [len(part) for part in _split(units, number)]
        profiles = _profiles(model, prompts, kind, units, seed)
        members = [[] for _ in sizes]
        for unit, group in zip(units, _balanced_clusters(profiles, sizes, seed).tolist()):
            members[group].append(unit)
        members.sort(key=lambda group: units.index(group[0]))
        return Groups(kind, tuple(map(tuple, members)), f"clustered by {len(prompts)} prompts, seed {seed}")

    # ------------------------------------------------------------ what can be asked of them

    def __len__(self) -> int:
        return len(self.members)

    def __str__(self) -> str:
        total = sum(map(len, self.members))
        head = f"{len(self)} groups of {total} units of {self.kind!r} ({self.rule})"
        return "\n".join([head, *(f"{g:>4}  {label}" for g, label in enumerate(self.labels))])

    @property
    def layers(self) -> tuple[int | None, ...]:
        found = {layer for group in self.members for layer, _ in group}
        return tuple(sorted(found, key=lambda layer: -1 if layer is None else layer))

    @property
    def labels(self) -> tuple[str, ...]:
        """A short name for each group: its heads, its range of neurons, or how many units it has."""
        return tuple(self._label(group) for group in self.members)

    def _label(self, group: tuple[Unit, ...]) -> str:
        if self.kind in HEAD_KINDS and len(group) <= 4:
            return " ".join(f"L{layer}H{head}" for layer, head in group)
        layers, units = {layer for layer, _ in group}, [unit for _, unit in group]
        noun = "head" if self.kind in HEAD_KINDS else "unit"
        if len(layers) > 1:
            first, last = min(layers), max(layers)
            which = f"L{first}-L{last}" if len(layers) == last - first + 1 else f"{len(layers)} layers"
            return f"{len(units)} {noun}s of {which}"
        where = "" if None in layers else f"L{min(layers)} "
        if len(units) == 1:
            return f"{where}{noun} {units[0]}"
        if units == list(range(units[0], units[-1] + 1)):
            return f"{where}{noun}s {units[0]}-{units[-1]}"
        return f"{where}{len(units)} {noun}s from {units[0]} to {units[-1]}"

    def validate(self, model) -> None:
        """Raise CourseError for a layer, head or unit that the model does not have."""
        per_layer = _units_in_a_layer(model, self.kind)
        for layer, unit in (unit for group in self.members for unit in group):
            validate(model, Site(self.kind, layer, None, unit if self.kind in HEAD_KINDS else None))
            if not 0 <= unit < per_layer:
                raise CourseError(f"unit {unit} is out of range: {self.kind!r} has units 0 to {per_layer - 1}")

    def keep(self, groups: int | Iterable[int]) -> Mask:
        """The mask that keeps these groups and ablates all others."""
        return Mask(self, frozenset(self.named(groups, "keep")))

    def drop(self, groups: int | Iterable[int]) -> Mask:
        """The mask that ablates these groups and keeps all others; all of them may be named."""
        return Mask(self, frozenset(range(len(self))) - set(self.named(groups, "drop")))

    def named(self, groups: int | Iterable[int], verb: str) -> list[int]:
        """The numbers of these groups. Raises CourseError for none at all, or one that there is not."""
        named = whole_numbers(groups if isinstance(groups, Iterable) else [groups], "groups")
        if not named:
            hint = f" (drop(range({len(self)})) masks everything)" if verb in ("keep", "drop") else ""
            raise CourseError(f"the set of groups to {verb} is empty: name at least one{hint}")
        for g in named:
            if not 0 <= g < len(self):
                raise CourseError(f"group {g} is unknown: there are groups 0 to {len(self) - 1}")
        return named

    # ------------------------------------------------------------ on disk

    def save(self, path: str | Path) -> None:
        content = {"kind": self.kind, "rule": self.rule, "members": self.members}
        Path(path).write_text(json.dumps(content) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Groups:
        """Groups from a file that `save` wrote. Raises CourseError if it is missing or damaged."""
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Groups(content["kind"], content["members"], content["rule"])
        except FileNotFoundError:
            raise CourseError(f"there is no file {path.name!r} to load groups from") from None
        except CourseError:
            raise
        except (ValueError, KeyError, TypeError):
            raise CourseError(f"{path.name!r} holds no groups or is damaged: save them again, Groups.save") from None


def _as_units(group) -> list[Unit]:
    """The units of a group: pairs (layer, unit), or a mask [layer, unit] of True and False."""
    if "bool" in str(getattr(group, "dtype", "")):
        group = np.argwhere(np.asarray(group)).tolist()
    return [(None if layer is None else whole_number(layer, "a layer"), whole_number(unit, "a unit"))
            for layer, unit in group]


def _split(units: Sequence[Unit], number: int) -> tuple[tuple[Unit, ...], ...]:
    """`number` parts whose sizes differ by at most one; the larger ones come first."""
    if not 1 <= number <= len(units):
        raise CourseError(f"{number} groups cannot be made of {len(units)} units: choose 1 to {len(units)} groups")
    small, larger = divmod(len(units), number)
    starts = [g * small + min(g, larger) for g in range(number + 1)]
    return tuple(tuple(units[a:b]) for a, b in zip(starts, starts[1:]))


def _profiles(model, prompts: Prompts, kind: str, units: Sequence[Unit],
              seed: int) -> Float[torch.Tensor, "unit sample"]:
    """What each unit does at the real positions, with mean 0 and length 1; all 0 for a unit that never changes."""
    sites, found = [Site(kind, layer) for layer in dict.fromkeys(layer for layer, _ in units)], []
    for start in range(0, len(prompts), 32):
        part = prompts.part(start, start + 32)
        values = read(model, part, sites, end_only=True)[1]
        by_layer = [values[site][part.mask.bool()] for site in sites]                 # each [sample, width]
        if kind in HEAD_KINDS:
            by_layer = [x.unflatten(-1, (heads_at(model, kind), -1)).norm(dim=-1) for x in by_layer]
        found.append(torch.cat(by_layer, 1))
    profiles = torch.cat(found).T.double().cpu()
    if profiles.shape[1] < 2:
        raise CourseError("clustering needs the activations at two positions or more: give a longer prompt, or several")
    order = torch.randperm(profiles.shape[1], generator=torch.Generator().manual_seed(seed))
    profiles = profiles[:, order[:SAMPLES].sort().values]
    return F.normalize(profiles - profiles.mean(1, keepdim=True))


def _balanced_clusters(profiles: Float[torch.Tensor, "unit sample"], sizes: Sequence[int],
                       seed: int) -> Int[torch.Tensor, "unit"]:
    """The cluster of each unit; the clusters have exactly these sizes.

    Units choose the nearest centre that still has room, those with most to lose by their second choice first.
    """
    from sklearn.cluster import KMeans  # takes a second: only when it is wanted

    centres = KMeans(len(sizes), n_init=4, random_state=seed).fit(profiles.numpy()).cluster_centers_
    distances = torch.cdist(profiles, torch.from_numpy(centres)) ** 2
    best = distances.sort(1).values[:, :2]
    room, cluster = torch.tensor(sizes), torch.empty(len(profiles), dtype=torch.long)
    for unit in (best[:, -1] - best[:, 0]).argsort(descending=True, stable=True).tolist():
        cluster[unit] = distances[unit].where(room > 0, torch.inf).argmin()
        room[cluster[unit]] -= 1
    return cluster


@dataclass(frozen=True)
class Mask:
    """Which groups are kept; the units of all others are ablated. Made by `Groups.keep` and `Groups.drop`."""
    groups: Groups
    kept: frozenset[int]

    @property
    def active(self) -> int:
        """The number of units that are kept (a count, not a sum of their values)."""
        return sum(len(self.groups.members[g]) for g in self.kept)

    @property
    def row(self) -> Bool[torch.Tensor, "group"]:
        return torch.tensor([g in self.kept for g in range(len(self.groups))])

    def __str__(self) -> str:
        total = sum(map(len, self.groups.members))
        if not self.kept:
            return f"everything is masked: 0 of {total} units are active"
        names = ", ".join(map(str, sorted(self.kept)))
        groups = f"keeps {len(self.kept)} of {len(self.groups)} groups ({names})"
        return f"{groups}: {self.active} of {total} units are active"

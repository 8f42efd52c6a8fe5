"""Where a model keeps its layers, for models that the engine does not know: `LayerConfig`.

The engine asks a model that has a method `address_of(site)` for its modules. `ConfiguredModel` gives a causal language
model that method, from four names.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Callable

import torch

from ..errors import CourseError, closest
from .sites import Address, Site

Matcher = str | Callable[[int], str]
FIELDS = {"resid_pre": "hidden_layers_matcher", "resid_post": "hidden_layers_matcher",
          "attn_out": "attention_layers_matcher", "mlp_out": "mlp_layers_matcher"}


@dataclass(frozen=True)
class LayerConfig:
    """Names of modules, as `model.named_modules()` lists them.

    The three matchers name the module of one layer: a template such as "transformer.h.{num}.mlp", or a function that
    takes the number of the layer and returns the name. Each module's (first) output is the activation.
    """
    hidden_layers_matcher: Matcher
    attention_layers_matcher: Matcher
    mlp_layers_matcher: Matcher
    embedding_layer: str

    def __post_init__(self):
        for field in dict.fromkeys(FIELDS.values()):
            matcher = getattr(self, field)
            if not callable(matcher) and "{num}" not in str(matcher):
                raise CourseError(f"{field} is {matcher!r}: a template needs {{num}} where the number of the layer "
                                  "stands, such as 'transformer.h.{num}'")

    def name(self, field: str, layer: int) -> str:
        matcher = getattr(self, field)
        return matcher(layer) if callable(matcher) else matcher.replace("{num}", str(layer))


class ConfiguredModel:
    """A causal language model together with the modules that a `LayerConfig` names; the engine takes it as a model.

    Raises CourseError, with module names of the model that are most like it, for a name that the model does not have.
    """

    def __init__(self, model: torch.nn.Module, layers: LayerConfig):
        self.model, self.layers = model, layers
        self._modules = dict(model.named_modules())
        self._embedding = self._find(layers.embedding_layer, "embedding_layer")
        fields = list(dict.fromkeys(FIELDS.values()))
        found = {field: self._count(field) for field in fields}
        if len(set(found.values())) > 1:
            raise CourseError("the matchers find different numbers of layers: "
                              + ", ".join(f"{field} {number}" for field, number in found.items()))
        known = getattr(model, "config", None)
        self.config = SimpleNamespace(
            model_type="configured", num_hidden_layers=found[fields[0]],
            num_attention_heads=getattr(known, "num_attention_heads", 1),
            max_position_embeddings=getattr(known, "max_position_embeddings", None))

    def __call__(self, **inputs):
        return self.model(**inputs)

    def parameters(self):
        return self.model.parameters()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self._embedding

    def address_of(self, site: Site) -> Address:
        if site.kind == "embed":
            return Address(self._embedding, False)
        if site.kind not in FIELDS:
            raise CourseError(f"a LayerConfig does not say where {site.kind!r} is, only: embed, {', '.join(FIELDS)}")
        return Address(self._modules[self.layers.name(FIELDS[site.kind], site.layer)], site.kind == "resid_pre")

    def _count(self, field: str) -> int:
        self._find(self.layers.name(field, 0), field)
        layers = 1
        while self.layers.name(field, layers) in self._modules:
            layers += 1
            if layers > len(self._modules):
                raise CourseError(f"{field} gives one module for every layer: the name must hold the layer's number")
        return layers

    def _find(self, name: str, field: str) -> torch.nn.Module:
        if name in self._modules and name:
            return self._modules[name]
        near = ", ".join(map(repr, self._near(name)))
        raise CourseError(f"{field}: this model has no module {name!r}; "
                          + (f"nearest are {near}" if near else "model.named_modules() lists all there are"))

    def _near(self, name: str) -> list[str]:
        """Up to three module names: those with the same ending first, then those spelled most like it, layer 0 only."""
        names = [n for n in self._modules if n and not re.search(r"\.[1-9]\d*(\.|$)", n)]
        same_ending = [n for n in names if n.endswith("." + name)]
        return list(dict.fromkeys([*same_ending, *closest(name, names, most=3)]))[:3]

"""Where a model keeps its layers, for models that the engine does not know: `LayerConfig`.

The engine asks a model that has a method `address_of(site)` for its modules. `ConfiguredModel` gives a causal language
model that method, from four names.
"""
from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Callable

import torch

from ..errors import CourseError, closest
from .sites import Address, Site

LayerMatcher = str | Callable[[int], str] | Callable[[torch.nn.Module, int], str]
FIELDS = {"resid_pre": "hidden_layers_matcher", "resid_post": "hidden_layers_matcher",
          "attn_out": "attention_layers_matcher", "mlp_out": "mlp_layers_matcher"}


@dataclass(frozen=True)
class LayerConfig:
    """Names of modules, as `model.named_modules()` lists them.

    The three matchers name the module of one layer: a template such as "transformer.h.{num}.mlp", or a function that
    takes the number of the layer (or the model and the number, as in causal-tracer) and returns the name. Each module's
    (first) output is the activation.
    """
    hidden_layers_matcher: LayerMatcher
    attention_layers_matcher: LayerMatcher
    mlp_layers_matcher: LayerMatcher
    embedding_layer: str

    def __post_init__(self):
        for field in dict.fromkeys(FIELDS.values()):
            matcher = getattr(self, field)
            if not callable(matcher) and "{num}" not in str(matcher):
                raise CourseError(f"{field} is {matcher!r}: a template needs {{num}} where the number of the layer "
                                  "stands, such as 'transformer.h.{num}'")

    def name(self, field: str, layer: int, model: torch.nn.Module | None = None) -> str:
        matcher = getattr(self, field)
        if not callable(matcher):
            return matcher.replace("{num}", str(layer))
        return matcher(model, layer) if _wants_the_model(matcher) else matcher(layer)


def _wants_the_model(matcher: Callable) -> bool:
    """True if a function takes the model and the number of a layer, False if it takes the number alone."""
    try:
        parameters = inspect.signature(matcher).parameters.values()
    except ValueError:                                                       # some functions written in C do not say
        return False
    return sum(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters) == 2


GPT2_LAYER_CONFIG = LayerConfig("transformer.h.{num}", "transformer.h.{num}.attn", "transformer.h.{num}.mlp",
                                "transformer.wte")
LLAMA_LAYER_CONFIG = LayerConfig("model.layers.{num}", "model.layers.{num}.self_attn", "model.layers.{num}.mlp",
                                 "model.embed_tokens")


class ConfiguredModel:
    """A causal language model together with the modules that a `LayerConfig` names; the engine takes it as a model.

    Names may all leave out the prefix under which Hugging Face keeps the body of a model ("h.{num}" for
    "transformer.h.{num}"). Raises CourseError, with module names of the model that are most like it, for a name that the
    model does not have.
    """

    def __init__(self, model: torch.nn.Module, layers: LayerConfig):
        self.model, self.layers = model, layers
        self._modules, self._prefix = dict(model.named_modules()), ""
        body = f"{getattr(model, 'base_model_prefix', '')}."
        if all(name not in self._modules and body + name in self._modules for name in self._names_of_layer_0()):
            self._prefix = body
        self._embedding = self._find(self._prefix + layers.embedding_layer, "embedding_layer")
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
        return Address(self._modules[self._name(FIELDS[site.kind], site.layer)], site.kind == "resid_pre")

    def named_modules(self):
        return self.model.named_modules()

    def _name(self, field: str, layer: int) -> str:
        return self._prefix + self.layers.name(field, layer, self.model)

    def _names_of_layer_0(self) -> list[str]:
        return [*(self.layers.name(field, 0, self.model) for field in FIELDS.values()), self.layers.embedding_layer]

    def _count(self, field: str) -> int:
        self._find(self._name(field, 0), field)
        layers = 1
        while self._name(field, layers) in self._modules:
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

"""From the stream to the logits: final norm, unembedding, and what a family does to the logits after it.

Early decoding, direct attribution and the passes through the pieces all read the stream here, so that what a family does
(a norm's 1 + weight, a bias, a logit scale, a softcap) stands in one place: its record.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn

from ..models import inner, shape_of
from .families import block_of, family_of, matrix_of, module_at, plain_of, require_family, setting

Tensor = torch.Tensor
PART_OF_THE_VOCABULARY = 2048
HEADS = ("lm_head", "embed_out", "score")


@dataclass(frozen=True)
class Readout:
    """norm, project: None where there is none. scale: of the logits; softcap: c in c tanh(logit / c), or None."""
    norm: nn.Module | None
    project: nn.Module | None
    unembed: nn.Linear
    norm_offset: float = 0.0
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, stream: Float[Tensor, "*batch width"], tokens: Int[Tensor, "token"] | None = None) -> Tensor:
        """Logits of all tokens (or classes), or only of some; [*batch, token]."""
        return torch.cat(list(self._by_part(stream, tokens)), -1)

    def log_normaliser(self, stream: Float[Tensor, "row width"]) -> Float[Tensor, "row"]:
        """Logarithm of the sum of exponentials of all logits; they are not held together."""
        sums = [part[:, 0] - part.log_softmax(-1)[:, 0] for part in self._by_part(stream)]
        return torch.stack(sums).logsumexp(0)

    def _by_part(self, stream: Tensor, tokens: Int[Tensor, "token"] | None = None) -> Iterator[Tensor]:
        """Several narrow products are faster than one as wide as the vocabulary."""
        weight, bias = self.unembed.weight, self.unembed.bias
        stream = stream if self.norm is None else self.norm(stream)
        stream = stream if self.project is None else self.project(stream)
        if tokens is not None:
            weight, bias = weight[tokens], None if bias is None else bias[tokens]
        for start in range(0, len(weight), PART_OF_THE_VOCABULARY):
            part = slice(start, start + PART_OF_THE_VOCABULARY)
            yield self.finished(F.linear(stream, weight[part], None if bias is None else bias[part]))

    def finished(self, logits: Tensor) -> Tensor:
        """What the model makes of the product with the unembedding."""
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def readout_of(model) -> Readout | None:
    """How this model reads its logits off the stream; None for an unknown family or a head that is no linear map."""
    plain, family = plain_of(model), family_of(model)
    name = next((name for name in HEADS if hasattr(plain, name)), None)
    if family is None or name is None or not family.head:
        return None
    norm, project = (inner(module_at(plain, path)) if path and module_at(plain, path) is not None else None
                     for path in (family.norm, family.project))
    if name == "score":  # a classifier leaves the logits as they are
        return Readout(norm, project, inner(plain.score), family.norm_offset)
    scale = setting(model, family.logit_scale, 1.0) / setting(model, family.logit_divisor, 1.0)
    return Readout(norm, project, inner(getattr(plain, name)), family.norm_offset, scale,
                   setting(model, family.softcap))


def held(norm: nn.Module | None, at: Float[Tensor, "*batch width"],
         offset: float = 0.0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A norm whose divisor is held at the value it has for `at`: (a linear map of what comes in, a constant).

    norm(at) = map(at) + constant. A layer norm also takes away the mean of what comes in, an RMS norm does not.
    """
    if norm is None:
        return (lambda x: x), torch.zeros_like(at)
    norm = inner(norm)
    centred = "RMS" not in type(norm).__name__
    centre = (lambda x: x - x.mean(-1, keepdim=True)) if centred else (lambda x: x)
    epsilon = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    divisor = (centre(at).pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
    weight = 1.0 if norm.weight is None else norm.weight + offset
    constant = norm(at) - centre(at) * weight / divisor
    return (lambda x: centre(x) * weight / divisor), constant


def heads_into_stream(model, layer: int,
                 z: Float[Tensor, "*batch width"]) -> tuple[Float[Tensor, "head *batch stream"], Float[Tensor, "*batch stream"]]:
    """(what each head adds to the stream, what is added beside them: biases) for outputs `z` of the heads of one layer.

    A norm that follows attention is held at its value for the sum of the heads. Raises CourseError for a family without
    a record.
    """
    family, heads = require_family(model), shape_of(model)[1]
    block = block_of(model, family, layer)
    out = inner(module_at(block, family.out))
    matrix = matrix_of(out).unflatten(0, (heads, -1))                                    # [head, size, stream]
    by_head = torch.einsum("...hd,hdw->h...w", z.unflatten(-1, (heads, -1)), matrix)
    after = module_at(block, family.after_attention) if family.after_attention else None
    linear, constant = held(after, out(z), family.norm_offset)
    bias = 0.0 if out.bias is None else linear(out.bias)
    factor = setting(model, family.residual_scale, 1.0)
    return linear(by_head) * factor, (constant + bias) * factor

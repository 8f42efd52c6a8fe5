"""Derived from the exercise cells of solutions/04_induction_heads.ipynb by python -m utils.authoring."""
from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import FactoredMatrix


def repeated_tokens(n: int, period: int, vocabulary: int, bos: int,
                    generator: torch.Generator) -> Int[Tensor, "sequence position"]:
    """BOS, `period` random tokens other than BOS, the same tokens again."""
    half = torch.randint(0, vocabulary - 1, (n, period), generator=generator)
    half = half + (half >= bos)
    return torch.cat([torch.full((n, 1), bos), half, half], dim=1)


def log_probabilities(logits: Float[Tensor, "sequence position vocab"],
                      tokens: Int[Tensor, "sequence position"]) -> Float[Tensor, "sequence target"]:
    """Natural logarithm of the probability of each token, given those before it; BOS has none."""
    wanted = tokens[:, 1:]
    return logits[:, :-1].log_softmax(-1).gather(-1, wanted[..., None]).squeeze(-1)


def induction_score(pattern: Float[Tensor, "*head query key"], period: int) -> Float[Tensor, "*head"]:
    """Mean attention from each token of the second half to the token after its earlier copy."""
    queries = torch.arange(period + 1, 2 * period + 1)
    return pattern[..., queries, queries + 1 - period].mean(-1)


def knock_out(model, tokens: Int[Tensor, "sequence position"],
              chosen: list[tuple[int, int]]) -> Float[Tensor, "sequence position vocab"]:
    """Logits of a run in which the chosen heads put out zeros."""
    def silence(head):
        def hook(z, hook):
            z = z.clone()
            z[:, :, head] = 0
            return z
        return hook

    hooks = [(f"blocks.{layer}.attn.hook_z", silence(head)) for layer, head in chosen]
    return model.run_with_hooks(tokens, fwd_hooks=hooks, prepend_bos=False)


def k_composition(early_v: Float[Tensor, "width size"], early_o: Float[Tensor, "size width"],
                  late_q: Float[Tensor, "width size"], late_k: Float[Tensor, "width size"]) -> Float[Tensor, ""]:
    """How much of what the early head writes the keys of the late head read, between 0 and 1."""
    writes, reads = early_v @ early_o, late_q @ late_k.T
    return (reads @ writes.T).norm() / (reads.norm() * writes.norm())


def circuit(vectors: Float[Tensor, "token width"], early_v: Float[Tensor, "width size"],
            early_o: Float[Tensor, "size width"], late_q: Float[Tensor, "width size"],
            late_k: Float[Tensor, "width size"]) -> FactoredMatrix:
    """[query token, key token]: how much a query token wants the place after the key token."""
    queries = vectors @ late_q
    keys = vectors @ early_v @ early_o @ late_k
    return FactoredMatrix(queries, keys.T)


def donors(period: int) -> dict[int, int]:
    """{position in the second half: position of the same token in the first half}"""
    return {position: position - period for position in range(period + 1, 2 * period + 1)}

"""`fit_das` on the classifier itself: TransformerLens takes any network that calls its hook points."""
from __future__ import annotations

import torch
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from utils.models import all_sums, encode_sums

from .fit_das import PACKAGES, search
from .peer_loop import load as load_plain

__all__ = ["PACKAGES", "load", "search"]


class Hooked(HookedRootModule):
    """The Hugging Face classifier with a hook point after each block."""

    def __init__(self, network):
        super().__init__()
        self.network, self.sums = network, encode_sums(network, all_sums()).tokens
        self.after = torch.nn.ModuleList(HookPoint() for _ in network.transformer.h)
        for block, point in zip(network.transformer.h, self.after):
            block.register_forward_hook(lambda module, args, output, point=point: (
                (point(output[0]), *output[1:]) if isinstance(output, tuple) else point(output)))
        self.setup()

    def forward(self, tokens):
        return self.network(input_ids=tokens).logits

    classes = forward

    def name_of(self, layer: int) -> str:
        return f"after.{layer}"


def load(folder: str) -> Hooked:
    return Hooked(load_plain(folder)).eval()

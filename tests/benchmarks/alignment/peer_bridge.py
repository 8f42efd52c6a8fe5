"""`fit_das` on a bridge, as TransformerLens loads models. It loads no classifier, so the classifier becomes a language
model with the same trunk, whose first 28 words are the classes."""
from __future__ import annotations

import shutil
import tempfile
import torch
from transformers import GPT2LMHeadModel

from utils.models import CHECKPOINTS, all_sums, encode_sums, load_model

from ..jobs import SHIPPED
from .draws import CLASSES
from .fit_das import PACKAGES, search
from .peer_loop import load as load_plain

__all__ = ["PACKAGES", "load", "search"]


def load(folder: str):
    """The bridge. Raises RuntimeError if it does not give the classifier's logits."""
    classifier = load_plain(folder)
    with tempfile.TemporaryDirectory() as scratch:
        _language_model(classifier).save_pretrained(scratch)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(CHECKPOINTS / SHIPPED / name, scratch)     # that of the sums has too few words for a bridge
        bridge = load_model(scratch, device="cpu")
    last = lambda tokens: bridge(tokens, return_type="logits", prepend_bos=False)[:, -1, :CLASSES]
    sums = encode_sums(classifier, all_sums()).tokens
    if not torch.allclose(last(sums), classifier(input_ids=sums).logits, atol=1e-3):
        raise RuntimeError("the bridge and the classifier do not give the same logits")
    bridge.classes, bridge.name_of = last, lambda layer: f"blocks.{layer}.hook_resid_post"
    bridge.sums = sums
    return bridge


def _language_model(classifier) -> GPT2LMHeadModel:
    """The classifier's trunk with its head as the first rows of an unembedding; further words get zeros."""
    trunk, head = classifier.transformer, classifier.score.weight
    words = max(len(trunk.wte.weight), CLASSES)
    config = type(classifier.config)(**{**classifier.config.to_dict(), "vocab_size": words, "tie_word_embeddings": False,
                                        "architectures": ["GPT2LMHeadModel"]})
    model = GPT2LMHeadModel(config)
    weights = trunk.state_dict()
    weights["wte.weight"] = torch.cat([trunk.wte.weight, torch.zeros(words - len(trunk.wte.weight), config.n_embd)])
    model.transformer.load_state_dict(weights)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[:CLASSES] = head
    return model

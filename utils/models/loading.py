"""Loading language models.

`load_model` takes the name of a shipped model, a local folder or a model id of the Hugging Face hub and always returns
a TransformerLens `TransformerBridge` in evaluation mode and float32. Everything that can go wrong is said in one
sentence, as a `CourseError`.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import CourseError
from .shelf import Shelf, architecture_of, known_words, require_complete, require_files, require_finite

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHIPPED = {"course-gpt2": "8-layer GPT-2 trained for this course on facts, givers and receivers, repeated tokens"}
SHELF = Shelf("load_model", SHIPPED, ("gpt2", "gpt2-medium", "EleutherAI/pythia-160m", "meta-llama/Llama-3.2-1B",
                                      "Qwen/Qwen2.5-0.5B"),
              short_names=("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"))


def load_model(name: str = "course-gpt2", device: str | None = None) -> TransformerBridge:
    """Load `name` (shipped model, local folder or hub id) on `device` (None: GPU if there is one, else CPU).

    Raises CourseError for an unknown name, a hub id that cannot be fetched, an incomplete or damaged folder, or weights
    that are not finite.
    """
    source = SHELF.find(str(name))
    if isinstance(source, str):
        SHELF.require_network_or_cache(source)
    else:
        _require_language_model(source)
        require_files(source)
    with SHELF.loading(source):
        model = _boot(source, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.eval().requires_grad_(False)
    require_finite(str(name), model.original_model)
    model.known_words = known_words(source)
    return model


def _boot(source: str | Path, device: str) -> TransformerBridge:
    """The bridge of a hub id or a folder. A folder that lacks some of the weights is refused, not filled at random."""
    import transformers  # these two take a second: only when a model is wanted
    from transformer_lens.model_bridge import TransformerBridge

    options = dict(device=device, dtype=torch.float32)
    if isinstance(source, Path):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        require_complete(source.name, info)
        options["hf_model"] = model.to(device)
    return TransformerBridge.boot_transformers(str(source), **options)


def _require_language_model(folder: Path) -> None:
    """Refuse a folder that holds a classifier, and say what takes it."""
    made_for = architecture_of(folder)
    if re.search("Classification|QuestionAnswering", made_for):
        how = ("utils.models.load_bert" if re.fullmatch("BertFor(Sequence|Question).*", made_for) else
               f"transformers.{made_for}.from_pretrained, the functions of utils take it as it is")
        raise CourseError(f"{folder.name!r} holds a {made_for}, which predicts no words: load it with {how}")

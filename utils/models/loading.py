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
from .devices import device_called
from .folders import architecture_of, first_line, known_words, load_fitting, require_finite
from .shelf import Shelf
from .tokens import puts_bos_in_front

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SHIPPED = {"course-gpt2": "8-layer GPT-2 trained for this course on facts, givers and receivers, repeated tokens"}
SHELF = Shelf("load_model", SHIPPED, ("gpt2", "gpt2-medium", "EleutherAI/pythia-160m", "meta-llama/Llama-3.2-1B",
                                      "Qwen/Qwen2.5-0.5B"),
              short_names=("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"))

# Their tokenizers put no BOS in front, but the numbers that are published for them (TransformerLens' default, and with it
# the course's own sources: 4.276 and -2.738 for the milk prompt) were measured with it.
PUBLISHED_WITH_BOS = {owner + name for owner in ("", "openai-community/", "distilbert/") for name in SHELF.short_names}


def load_model(name: str | Path = "course-gpt2", device: str | torch.device | None = None, *,
               bos: bool | None = None) -> TransformerBridge:
    """Load `name` (shipped model, local folder or hub id) on `device` (None: GPU if there is one, else CPU).

    bos: whether `encode` puts the beginning-of-text token in front of a prompt. None: as the model's own tokenizer does,
    with two exceptions whose tokenizers put none: course-gpt2, whose config.json says that it was trained with it, and GPT-2
    by its name on the hub (`PUBLISHED_WITH_BOS`). `model.prepends_bos` says what was decided.
    Program code that comes with a model is never run, and pickled weights in a folder are never read.
    Raises CourseError for an unknown name, a hub id that cannot be fetched, an incomplete or damaged folder, weights
    that are not finite or do not fit their config, a model that predicts no next word, or a device that is not here.
    """
    source, device = SHELF.find(str(name)), device_called(device)
    config = SHELF.config_of(source)
    _require_language_model(_name_of(source), config)
    with SHELF.loading(source):
        model = _boot(source, device)
        model.prepends_bos = _habit(source, config) if bos is None else bos
    model.eval().requires_grad_(False)
    require_finite(str(name), model.original_model)
    model.known_words = known_words(source)
    return model


def _boot(source: str | Path, device: torch.device) -> TransformerBridge:
    """The bridge of a hub id or a folder."""
    import transformers  # these two take a second: only when a model is wanted
    from transformer_lens.model_bridge import TransformerBridge

    model = load_fitting(transformers.AutoModelForCausalLM, source).to(device).eval()
    tokens = torch.arange(1, 5, device=device)[None] * model.get_input_embeddings().weight.shape[0] // 6
    with torch.no_grad():
        own = model(input_ids=tokens).logits
        try:
            bridge = TransformerBridge.boot_transformers(str(source), hf_model=model, device=device, dtype=torch.float32)
            wrapped = bridge.eval()(tokens, return_type="logits", prepend_bos=False)
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:  # of an unforeseen architecture
            raise CourseError(f"{_name_of(source)!r} cannot be made a TransformerBridge ({first_line(error)}): take "
                              f"transformers.{type(model).__name__}.from_pretrained, the functions of utils take it as it "
                              "is") from None
    _require_same_logits(source, own, wrapped)
    return bridge


def _require_same_logits(source: str | Path, own: torch.Tensor, wrapped: torch.Tensor) -> None:
    """Refuse a bridge that is another model than the one it was made of. (What is not finite is refused later.)"""
    error = ((own - wrapped).abs().max() / (own.max() - own.min())).item()
    if error > 1e-4:
        raise CourseError(f"the TransformerBridge of {_name_of(source)!r} gives other logits than the model itself ({error:.1g} "
                          "of their range off): load the model with transformers, the functions of utils take it as it is")


def _name_of(source: str | Path) -> str:
    return getattr(source, "name", source)


def _habit(source: str | Path, config: dict) -> bool:
    """Whether BOS stands in front of a text. TransformerLens changes its tokenizer, so an untouched one is asked."""
    if config.get("trained_with_bos") or source in PUBLISHED_WITH_BOS:
        return True
    from transformers import AutoTokenizer

    return puts_bos_in_front(AutoTokenizer.from_pretrained(source, trust_remote_code=False))


def _require_language_model(name: str, config: dict) -> None:
    """Refuse a model that does not predict the next word, and say what takes it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    made_for = architecture_of(config)
    if re.search("Classification|QuestionAnswering", made_for):
        how = ("utils.models.load_bert" if re.fullmatch("BertFor(Sequence|Question).*", made_for) else
               f"transformers.{made_for}.from_pretrained, the functions of utils take it as it is")
        raise CourseError(f"{name!r} holds a {made_for}, which predicts no words: load it with {how}")
    if config.get("model_type") in MASKED and not config.get("is_decoder") or re.search("MaskedLM|PreTraining", made_for):
        raise CourseError(f"{name!r} holds a {made_for or config['model_type']}, which looks at both sides of a token and "
                          f"predicts no next one: load it with transformers.{made_for or 'AutoModelForMaskedLM'}.from_pretrained")

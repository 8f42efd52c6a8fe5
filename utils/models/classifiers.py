"""BERT models that judge a text or find an answer in it: loading them, encoding for them, reading off what they say.

`load_bert` returns the Hugging Face model as it is (`BertForSequenceClassification` or `BertForQuestionAnswering`;
Devlin et al. 2019, arXiv 1810.04805), with its tokenizer attached; `utils.engine` and `utils.masking` take that.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import torch
from jaxtyping import Float, Int

from ..errors import CourseError, several
from .bridges import context_of
from .shelf import Shelf
from .tokens import Prompts, get_tokenizer, padded, warn_unknown

if TYPE_CHECKING:
    from transformers import BertForQuestionAnswering, BertForSequenceClassification

SHELF = Shelf("load_bert", {"sentiment-bert": "BERT that tells positive from negative reviews",
                            "qa-bert": "BERT that finds the answer to a question in a text"},
              ("textattack/bert-base-uncased-SST-2", "deepset/bert-base-cased-squad2"))
CLASSES = ("BertForSequenceClassification", "BertForQuestionAnswering")
Text = str | tuple[str, str]  # one text, or a pair
NAMELESS = {"textattack/bert-base-uncased-SST-2": ("negative", "positive")}  # SST-2's order; its config names none


# ---------------------------------------------------------------- loading

def load_bert(name: str | Path = "sentiment-bert",
              device: str | torch.device | None = None) -> BertForSequenceClassification | BertForQuestionAnswering:
    """Load `name` (shipped model, local folder or hub id) on `device` (None: GPU if there is one, else CPU).

    The class is the one the weights were saved from. In evaluation mode, float32, eager attention, without gradients,
    `.tokenizer` attached. Raises CourseError as `Shelf.load_plain` does.
    """
    model = SHELF.load_plain(name, CLASSES, device)
    if name in NAMELESS:
        model.config.id2label = dict(enumerate(NAMELESS[name]))
        model.config.label2id = {label: i for i, label in model.config.id2label.items()}
    return model


# ---------------------------------------------------------------- text to tokens

def encode_texts(model, texts: Text | Sequence[Text], *, warn: bool = True) -> Prompts:
    """Tokenise texts, [CLS] text [SEP], or pairs such as (question, context), [CLS] question [SEP] context [SEP].

    Pairs get token types, 0 up to the first [SEP] and 1 after it. Warns about words that a shipped model never saw.
    Raises CourseError for an empty text, texts mixed with pairs, or one that is longer than the context.
    """
    items = [texts] if isinstance(texts, str) or _is_pair(texts) else list(texts)
    if not items:
        raise CourseError("there is no text: the list is empty")
    if len({isinstance(item, str) for item in items}) == 2:
        raise CourseError("some inputs are single texts and some are pairs: encode them apart")
    tokenizer, limit, rows, types = get_tokenizer(model), context_of(model), [], []
    for item in items:
        parts = (item,) if isinstance(item, str) else item
        if not all(part.strip() for part in parts):
            what = "text" if len(parts) == 1 else "question or context"
            raise CourseError(f"a {what} is empty: write at least one word")
        encoding = tokenizer(*parts, truncation=False, verbose=False)
        row = list(encoding["input_ids"])
        if len(row) > limit:
            raise CourseError(f"an input has {len(row)} tokens with [CLS] and [SEP], but the context of this model "
                              f"ends at {limit}: shorten the one that starts with {parts[-1][:30]!r}")
        rows.append(row)
        types.append(list(encoding["token_type_ids"]))
    if warn:
        lower = getattr(tokenizer, "do_lower_case", False)
        warn_unknown(model, [part.lower() if lower else part for item in items
                             for part in ((item,) if isinstance(item, str) else item)])
    prompts = padded(model, rows)
    if isinstance(items[0], str):
        return prompts
    width = prompts.tokens.shape[1]
    table = torch.tensor([row + [0] * (width - len(row)) for row in types], device=prompts.tokens.device)
    return replace(prompts, types=table)


def _is_pair(texts) -> bool:
    """True for a tuple of two texts; two texts that are no pair come as a list."""
    return isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(part, str) for part in texts)


# ---------------------------------------------------------------- what a classifier says

@dataclass(frozen=True)
class Verdict:
    """The likeliest class of a text, and its probability."""
    label: str
    confidence: float

    def __str__(self) -> str:
        return f"{self.label} ({self.confidence:.1%})"


def class_names(model, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of the classes in the order of the logits: the model's own, or `names` in their place.

    Raises CourseError for a model that has no classes, or `names` of another number.
    """
    if "SequenceClassification" not in type(model).__name__:
        raise CourseError(f"a {type(model).__name__} sorts texts into no classes: load a classifier, such as "
                          "load_bert('sentiment-bert')")
    own = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    if names is None:
        return own
    names = several(names, "the labels")
    if not len(names) == len(set(names)) == len(own):
        raise CourseError(f"the labels {', '.join(names)} do not fit a model of {len(own)} classes ({', '.join(own)}): "
                          f"give {len(own)} different ones")
    return tuple(names)


def class_ids(model, labels: str | Sequence[str], names: Sequence[str] | None = None) -> Int[torch.Tensor, "prompt"]:
    """The class of each label, [prompt], on the model's device; for the outcomes in `utils.metrics`.

    Raises CourseError for a label that is no class of the model.
    """
    known = class_names(model, names)
    labels = [labels] if isinstance(labels, str) else list(labels)
    for label in labels:
        if label not in known:
            raise CourseError(f"{label!r} is no class of this model, which has {len(known)}: {', '.join(known)}")
    return torch.tensor([known.index(label) for label in labels], device=next(model.parameters()).device)


def verdicts(model, logits: Float[torch.Tensor, "prompt class"], names: Sequence[str] | None = None) -> list[Verdict]:
    """Label and confidence of each row of logits: `verdicts(model, at_end(model, prompts))`.

    Raises CourseError for logits of another number of classes.
    """
    known = class_names(model, names)
    if logits.dim() != 2 or logits.shape[1] != len(known):
        raise CourseError(f"logits of shape {tuple(logits.shape)} do not fit a model of {len(known)} classes: give "
                          f"[prompt, {len(known)}], as at_end(model, prompts) returns them")
    confidence, best = logits.softmax(-1).max(-1)
    return [Verdict(known[i], p) for i, p in zip(best.tolist(), confidence.tolist())]

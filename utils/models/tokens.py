"""Turning text into tokens: `Prompts`, and the ids of single words."""
from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

import torch
from jaxtyping import Int

from ..errors import CourseError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts, padded on the right.

    tokens: [prompt, position]; mask: 1 for real tokens; ends: the last real position of each prompt, [prompt].
    types: 0 for the tokens of the first text of a pair and 1 for those of the second, or None. Only a BERT is told; other
    models have no place for them.
    """
    tokens: Int[torch.Tensor, "prompt position"]
    mask: Int[torch.Tensor, "prompt position"]
    ends: Int[torch.Tensor, "prompt"]
    labels: tuple[tuple[str, ...], ...]
    types: Int[torch.Tensor, "prompt position"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, start: int, stop: int) -> Prompts:
        """The prompts from `start` up to `stop`, padded as they are."""
        columns = (self.tokens, self.mask, self.ends, self.labels, self.types)
        return Prompts(*(None if column is None else column[start:stop] for column in columns))

    @property
    def equal_length(self) -> bool:
        return bool((self.mask == 1).all())


def encode(model: TransformerBridge, prompts: str | Sequence[str], *, warn: bool = True) -> Prompts:
    """Tokenise one prompt or several; the beginning-of-text token is put in front if the model uses one.

    Warns about words that a shipped model never saw. Raises CourseError for an empty prompt or one that is longer
    than the context.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise CourseError("there is no prompt: the list is empty")
    tokenizer, limit = get_tokenizer(model), model.cfg.n_ctx
    start = [tokenizer.bos_token_id] if model.cfg.default_prepend_bos and tokenizer.bos_token_id is not None else []
    rows = []
    for text in texts:
        if not text.strip():
            raise CourseError("a prompt is empty: write at least one word")
        row = start + tokenizer.encode(text, add_special_tokens=False)
        if len(row) > limit:
            raise CourseError(f"a prompt has {len(row)} tokens, but the context of this model ends at {limit}: "
                              f"shorten the prompt that starts with {text[:30]!r}")
        rows.append(row)
    if warn:
        warn_unknown(model, texts)
    return padded(model, rows)


def padded(model: TransformerBridge, rows: Sequence[list[int]]) -> Prompts:
    """Prompts from rows of token ids of any length."""
    tokenizer, device, width = get_tokenizer(model), next(model.parameters()).device, max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = tuple(tuple(tokenizer.decode([token]) for token in row) for row in rows)
    ends = torch.tensor([len(row) - 1 for row in rows])
    return Prompts(tokens.to(device), mask.to(device), ends.to(device), labels)


def get_tokenizer(model: TransformerBridge):
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise CourseError("this model has no tokenizer: load it with load_model, or set model.tokenizer")
    return tokenizer


def unknown_words(model: TransformerBridge, text: str) -> list[str]:
    """Words of `text` that never occurred in the training text of a shipped model; empty for other models."""
    known = getattr(model, "known_words", None)
    if known is None:
        return []
    return [word for word in dict.fromkeys(re.findall(r"[^\W\d_]+", text)) if word not in known]


def warn_unknown(model: TransformerBridge, texts: Sequence[str]) -> None:
    unknown = unknown_words(model, " ".join(texts))
    if unknown:
        warnings.warn(f"the shipped model never saw the word{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}: "
                      "do not trust what it makes of this prompt (utils.tasks lists what it knows)", stacklevel=3)


def single_token(model: TransformerBridge, word: str) -> int:
    """The id of `word` (write the leading space: " Paris"). Raises CourseError if it is several tokens."""
    tokenizer = get_tokenizer(model)
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise CourseError("the answer is empty: write a word with its leading space, such as ' Paris'")
    pieces = " | ".join(tokenizer.decode([i]) for i in ids)
    spaced = len(tokenizer.encode(" " + word.strip(), add_special_tokens=False)) == 1
    hint = f"with a leading space, {' ' + word.strip()!r}, it is one" if spaced else "choose a word that is one token"
    raise CourseError(f"{word!r} is {len(ids)} tokens for this model ({pieces}) where one is needed: {hint}")


def answer_ids(model: TransformerBridge, answers: str | Sequence[str]) -> Int[torch.Tensor, "prompt"]:
    """One token id per answer, [prompt], on the model's device."""
    answers = [answers] if isinstance(answers, str) else answers
    return torch.tensor([single_token(model, a) for a in answers], device=next(model.parameters()).device)


def differing_positions(clean: Prompts, corrupted: Prompts) -> Int[torch.Tensor, "position"]:
    """Positions at which any clean prompt differs from its corruption. Raises CourseError if the lengths differ."""
    if len(clean) != len(corrupted):
        raise CourseError(f"{len(clean)} clean but {len(corrupted)} corrupted prompts: they must come in pairs")
    for a, b in zip(clean.labels, corrupted.labels):
        if len(a) != len(b):
            i = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            x, y = (row[i] if i < len(row) else "(end)" for row in (a, b))
            raise CourseError(f"clean and corrupted prompt must have the same number of tokens, not {len(a)} and "
                              f"{len(b)}: they part at position {i}, {x!r} against {y!r}")
    return (clean.tokens != corrupted.tokens).any(0).nonzero().flatten()


def print_difference(clean: Prompts, corrupted: Prompts) -> None:
    """Print each position at which the first clean prompt and its corruption part."""
    differing_positions(clean, corrupted)  # refuses prompts of different length
    for i, (a, b) in enumerate(zip(clean.labels[0], corrupted.labels[0])):
        if a != b:
            print(f"position {i}: {a!r} | {b!r}")

"""Turning text into tokens: `Prompts`, and the ids of single words."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

import torch
from jaxtyping import Int

from ..errors import CourseError, warn
from .bridges import context_of, is_bridge

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


def encode(model: TransformerBridge, prompts: str | Sequence[str], *, bos: bool | None = None, warn: bool = True) -> Prompts:
    """Tokenise one prompt or several, each with the ids that the model's own tokenizer gives it.

    bos: whether the beginning-of-text token stands in front of each; None: as the model is used to, which `load_model`
    finds out. It never stands there twice, also not where the text begins with it (as chat templates do), and `labels` show
    it. What a tokenizer puts behind a text is left out: the answer stands there.
    Warns about words that a shipped model never saw. Raises CourseError for an empty prompt or one that is longer
    than the context.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise CourseError("there is no prompt: the list is empty")
    tokenizer, limit, rows = get_tokenizer(model), context_of(model), []
    bos = _habit(model) if bos is None else bos
    for text in texts:
        row = token_ids(tokenizer, text, bos)
        if limit is not None and len(row) > limit:
            raise CourseError(f"a prompt has {len(row)} tokens, but the context of this model ends at {limit}: "
                              f"shorten the prompt that starts with {text[:30]!r}")
        rows.append(row)
    if warn:
        warn_unknown(model, texts)
    return padded(model, rows)


def _habit(model) -> bool | None:
    """Whether BOS belongs in front of a prompt of this model; None: the tokenizer says so itself.

    The tokenizer of a bridge is never asked: TransformerLens makes all of them put BOS in front. For a bridge that
    `load_model` did not make, TransformerLens' own rule holds.
    """
    return getattr(model, "prepends_bos", model.cfg.default_prepend_bos if is_bridge(model) else None)


def puts_bos_in_front(tokenizer) -> bool:
    """True if a text gets the beginning-of-text token from this tokenizer."""
    begin = getattr(tokenizer, "bos_token_id", None)
    return begin is not None and list(tokenizer("a")["input_ids"])[:1] == [begin]


def token_ids(tokenizer, text: str, bos: bool | None = None) -> list[int]:
    """The ids of a prompt: what the tokenizer puts in front of the text, and the text, without what it puts behind.

    bos: whether BOS stands in front, once; None: if the tokenizer puts it there. Raises CourseError for an empty text, or
    bos=True where the tokenizer has no such token.
    """
    if not text.strip():
        raise CourseError("a prompt is empty: write at least one word")
    begin = getattr(tokenizer, "bos_token_id", None)
    if bos and begin is None:
        raise CourseError("this tokenizer has no beginning-of-text token that could stand in front: leave bos=True out")
    whole, own = list(tokenizer(text)["input_ids"]), tokenizer.encode(text, add_special_tokens=False)
    front = next((whole[:i] for i in range(len(whole) - len(own) + 1) if whole[i:i + len(own)] == own), None)
    if front is None:
        raise CourseError(f"this tokenizer reads {text[:30]!r} otherwise with its special tokens than without, so the end "
                          "of the prompt cannot be told from what it puts behind")
    if getattr(tokenizer, "sep_token_id", None) in whole[len(front) + len(own):]:
        raise CourseError(f"this tokenizer closes a text with {tokenizer.sep_token!r}, as models do that look at both "
                          "sides: encode for it with utils.models.encode_texts")
    if bos and begin not in front:
        front = [begin, *front]
    if bos is False or own[:1] == [begin]:
        front = [token for token in front if token != begin]
    return front + own


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
        warn(f"the shipped model never saw the word{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}: "
             "do not trust what it makes of this prompt (utils.tasks lists what it knows)")


def continuation_ids(tokenizer, text: str, more: str) -> list[int]:
    """The ids that `more` adds to `text`; those of `more` by itself where the two run into each other.

    SentencePiece puts a space in front of every text, so that " Paris" by itself has one too many.
    """
    before, both = (tokenizer.encode(part, add_special_tokens=False) for part in (text, text + more))
    return both[len(before):] if both[:len(before)] == before else tokenizer.encode(more, add_special_tokens=False)


def _answer(tokenizer, word: str) -> list[int]:
    """The ids of an answer by itself; if they are several, those that it adds to a text (here: to the same word)."""
    alone = tokenizer.encode(word, add_special_tokens=False)
    return alone if len(alone) < 2 else continuation_ids(tokenizer, word.strip(), word)


def one_token(model: TransformerBridge, word: str) -> bool:
    """True if `word` (with its leading space) is a single token for this model, so that `single_token` takes it."""
    return len(_answer(get_tokenizer(model), word)) == 1


def single_token(model: TransformerBridge, word: str) -> int:
    """The id of `word` (write the leading space: " Paris"). Raises CourseError if it is several tokens."""
    tokenizer = get_tokenizer(model)
    ids = _answer(tokenizer, word)
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise CourseError("the answer is empty: write a word with its leading space, such as ' Paris'")
    pieces = " | ".join(tokenizer.decode([i]) for i in ids)
    spaced = len(_answer(tokenizer, " " + word.strip())) == 1
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

"""Answers as spans of a text: asking, finding the best span in the scores of a model, and outcomes for the engine.

A model that marks spans scores every token as the first and as the last of the answer, logits [prompt, position, 2]
(Devlin et al. 2019, arXiv 1810.04805). The best first and the best last token, each by itself, need not form a span:
`best_span` looks only at spans that lie in the context and end where they start or later.
"""
from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Sequence

import torch
from jaxtyping import Bool, Float, Int

from ..errors import CourseError
from ..models import Prompts, encode_texts, get_tokenizer

LONGEST = 12  # tokens of an answer
Logits = Float[torch.Tensor, "row position two"]
Positions = Int[torch.Tensor, "prompt"]


# ---------------------------------------------------------------- the best span

def best_span(start: Float[torch.Tensor, "row position"], end: Float[torch.Tensor, "row position"],
              context: Bool[torch.Tensor, "row position"], longest: int = LONGEST
              ) -> tuple[Int[torch.Tensor, "row"], Int[torch.Tensor, "row"], Float[torch.Tensor, "row"]]:
    """First and last token of the best span of each row, and its confidence.

    The score of a span is start[first] + end[last]. Only spans of at most `longest` tokens, all of them in the context,
    take part: one is always found, and never ends before it starts. The confidence is the probability of the best one
    under a softmax over all of these spans. Raises CourseError for a row without context.
    """
    if longest < 1:
        raise CourseError(f"an answer needs at least one token, so longest must be 1 or more, not {longest}")
    if not context.any(-1).all():
        raise CourseError("there is no context to find an answer in: the mask of the context marks no token of a row")
    width, outside = start.shape[-1], (~context).cumsum(-1)
    place = torch.arange(width, device=start.device)
    length = place[None, :] - place[:, None] + 1                            # [first, last]
    allowed = (length >= 1) & (length <= longest) & context[..., :, None]
    allowed = allowed & (outside[..., :, None] == outside[..., None, :])    # nothing but context in between
    scores = (start[..., :, None] + end[..., None, :]).clamp(min=torch.finfo(start.dtype).min)
    scores = scores.masked_fill(~allowed, -torch.inf).flatten(-2)
    best = scores.argmax(-1)
    confidence = scores.softmax(-1).gather(-1, best[..., None]).squeeze(-1)
    return best // width, best % width, confidence


# ---------------------------------------------------------------- asking

@dataclass(frozen=True)
class Asked:
    """Questions on contexts, tokenised: [CLS] question [SEP] context [SEP].

    context: True for the tokens of the context, [prompt, position]. offsets: where each token of the context stands in
    its text, in characters (start, end); (0, 0) for all other tokens.
    """
    prompts: Prompts
    texts: tuple[str, ...]
    context: Bool[torch.Tensor, "prompt position"]
    offsets: Int[torch.Tensor, "prompt position two"]

    def __len__(self) -> int:
        return len(self.texts)

    def tokens_of(self, spans: Sequence[tuple[int, int]]) -> tuple[Positions, Positions]:
        """First and last token of a span of characters (start, end) in each context.

        Tokens that reach into the span belong to it. Raises CourseError for a span that holds no token.
        """
        if len(spans) != len(self):
            raise CourseError(f"{len(spans)} spans for {len(self)} questions: give one for each")
        start, end = torch.tensor(spans, device=self.offsets.device)[:, :, None].unbind(1)
        inside = self.context & (start < end) & (self.offsets[..., 0] < end) & (self.offsets[..., 1] > start)
        for i in (~inside.any(1)).nonzero().flatten().tolist():
            raise CourseError(f"the span {tuple(spans[i])} holds no token of its context, which has "
                              f"{len(self.texts[i])} characters: a span is (start, end) with start < end")
        place = torch.arange(inside.shape[1], device=inside.device)
        return place.where(inside, inside.shape[1]).amin(1), place.where(inside, -1).amax(1)

    def text(self, prompt: int, first: int, last: int) -> str:
        """The piece of a context that some of its tokens cover."""
        return self.texts[prompt][int(self.offsets[prompt, first, 0]):int(self.offsets[prompt, last, 1])]


def ask(model, pairs: tuple[str, str] | Sequence[tuple[str, str]], *, warn: bool = True) -> Asked:
    """Tokenise pairs (question, context) for a model that marks spans.

    Raises CourseError for an empty text, or a pair that is longer than the positions of the model.
    """
    pairs = [pairs] if isinstance(pairs, tuple) and isinstance(pairs[0], str) else list(pairs)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise CourseError("a question is asked on a context: give pairs (question, context)")
    prompts = encode_texts(model, pairs, warn=warn)
    tokenizer, context, offsets = get_tokenizer(model), torch.zeros_like(prompts.tokens, dtype=torch.bool), []
    for i, pair in enumerate(pairs):
        encoding = tokenizer(*pair, truncation=False, verbose=False, return_offsets_mapping=True)
        own = torch.tensor([part == 1 for part in encoding.sequence_ids()])
        context[i, :len(own)] = own
        offsets.append(torch.tensor(encoding["offset_mapping"]) * own[:, None])
    offsets = torch.nn.utils.rnn.pad_sequence(offsets, batch_first=True).to(context.device)
    return Asked(prompts, tuple(text for _, text in pairs), context, offsets)


@dataclass(frozen=True)
class Answer:
    """A picked span of the context, and its probability among all spans that were possible."""
    text: str
    confidence: float
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.text} ({self.confidence:.1%})"


def pick_answers(asked: Asked, logits: Float[torch.Tensor, "prompt position two"],
                 longest: int = LONGEST) -> list[Answer]:
    """The answer to each question: `pick_answers(asked, at_end(model, asked.prompts))`.

    There always is one; a model trained to say that a text holds no answer is not asked whether it does.
    Raises CourseError for logits of another shape.
    """
    if logits.shape != (*asked.context.shape, 2):
        raise CourseError(f"logits of shape {tuple(logits.shape)} are no scores of spans: give "
                          f"[{len(asked)} prompts, {asked.context.shape[1]} positions, 2], as at_end returns them")
    found = zip(*(part.tolist() for part in best_span(*logits.unbind(-1), asked.context, longest)))
    return [Answer(asked.text(i, first, last), sure, first, last) for i, (first, last, sure) in enumerate(found)]


def exact_match(answer: str, right: str) -> bool:
    """True if they differ only in case, punctuation, articles and spaces (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    return _plain(answer) == _plain(right)


def _plain(text: str) -> list[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


# ---------------------------------------------------------------- outcomes

@dataclass(frozen=True)
class SpanLogProbability:
    """Outcome: log-probability of the right first token plus that of the right last token (nats).

    Each is a softmax over all real tokens, as in training. first, last: [prompt], from `Asked.tokens_of`.
    """
    first: Positions
    last: Positions

    def __call__(self, logits: Logits, index: Int[torch.Tensor, "row"]) -> Float[torch.Tensor, "row"]:
        right = torch.stack([self.first[index], self.last[index]], -1)[:, None]         # [row, 1, 2]
        return logits.log_softmax(1).gather(1, right).sum((1, 2))


@dataclass(frozen=True)
class SpanMatch:
    """Outcome: 1 if the picked tokens are those of the right answer, wherever they stand in the context, else 0."""
    asked: Asked
    first: Positions
    last: Positions
    longest: int = LONGEST

    def __call__(self, logits: Logits, index: Int[torch.Tensor, "row"]) -> Float[torch.Tensor, "row"]:
        first, last, _ = best_span(*logits.unbind(-1), self.asked.context[index], self.longest)
        tokens = self.asked.prompts.tokens[index]
        return (_cut(tokens, first, last) == _cut(tokens, self.first[index], self.last[index])).all(1).float()


def _cut(tokens: Int[torch.Tensor, "row position"], first: Int[torch.Tensor, "row"],
         last: Int[torch.Tensor, "row"]) -> Int[torch.Tensor, "row position"]:
    """The tokens from first to last, moved to the front; -1 behind them."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    moved = tokens.gather(1, (first[:, None] + place).clamp(max=tokens.shape[1] - 1))
    return moved.where(place <= (last - first)[:, None], -1)

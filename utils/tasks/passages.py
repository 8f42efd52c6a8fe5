"""Contexts of several sentences with questions whose answers stand in them, for models that mark spans.

Everything in these contexts is **invented** (people, buildings, things, and what is said of them; the cities exist),
except in `eiffel_tower`, which is true. Two or three subjects share a context, often of one kind and with the same sort
of facts, so that "the only city" or "the only year" is seldom the answer: a reader needs the question.

What training never showed: 15 % of all facts (who, what, value; "held_out_facts"), and of each sort of fact one
sentence ("held_out_sentences") and one question ("held_out_questions"), both about held-out facts too.
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Sequence

from . import passage_patterns as P
from .prompts import held_out

SPLITS = ("training", "held_out_facts", "held_out_sentences", "held_out_questions")
QUESTION_KINDS = tuple(P.QUESTIONS)
SLOT = re.compile(r"\{(\w+)\}")
Span = tuple[int, int]


@dataclass(frozen=True)
class Record:
    """A question on a context. The answer is `context[span[0]:span[1]]`, where the context says so.

    The words of the answer may stand elsewhere too. kind: what is asked, one of `QUESTION_KINDS`. rivals: other values of
    the same sort in the context, wrong answers all of them.
    """
    context: str
    question: str
    answer: str
    span: Span
    kind: str
    rivals: tuple[str, ...] = ()

    def without_question(self) -> Record:
        """The control: only a question mark is left, so that the answer can but be guessed."""
        return replace(self, question="?")


@dataclass(frozen=True)
class Fact:
    """A value that a context gives for a subject, and where; `named` is where the same sentence names the subject."""
    subject: str
    relation: str
    value: str
    span: Span
    named: Span | None


@dataclass(frozen=True)
class Passage:
    text: str
    facts: tuple[Fact, ...]


# ---------------------------------------------------------------- names and values

class _Supply:
    """Names and values for one context, none of them twice; `facts_held_out` says which facts may be told."""

    def __init__(self, rng: random.Random, facts_held_out: bool, made_up: float):
        self.rng, self.facts_held_out, self.made_up, self.used = rng, facts_held_out, made_up, set(P.REAL)

    def new(self, sort: str) -> str:
        """A value of one sort that this context does not have yet."""
        while (value := self._draw(sort)) in self.used:
            pass
        self.used.add(value)
        return value

    def _draw(self, sort: str) -> str:
        pick = self.rng.choice
        if sort == "person":
            first, last = pick(P.MALE + P.FEMALE), pick(P.SURNAMES)
            return f"{first} {self._made_up_word() if self.rng.random() < self.made_up else last}"
        if sort in ("building", "object"):
            first = self._made_up_word() if self.rng.random() < self.made_up else pick(P.ADJECTIVES)
            if sort == "building" and self.rng.random() < 0.15:
                return f"{pick(P.BUILDINGS)} of {pick(P.VIRTUES)}"
            return f"{first} {pick(P.BUILDINGS if sort == 'building' else P.OBJECTS)}"
        return pick({"city": P.CITIES, "year": P.YEARS, "material": P.MATERIALS, "job": P.JOBS}[sort])

    def _made_up_word(self) -> str:
        pick = self.rng.choice
        return "".join(pick("bcdfghklmnprstvwz") + pick("aeiou") + pick(["", "", "l", "n", "r", "s", "tt", "ck"])
                       for _ in range(self.rng.randint(2, 3))).capitalize()

    def fact(self, subject: str, relation: str, people: Sequence[str]) -> str | None:
        """A value for one fact; a person may be one of `people` of the context. None if no free value may be told."""
        sort = P.RELATIONS[relation][1]
        for _ in range(200):  # of a dozen materials, none may be held out
            known = [p for p in people if p != subject] if sort == "person" and self.rng.random() < 0.4 else []
            value = self.rng.choice(known) if known else self._draw(sort)
            free = value in known or value not in self.used
            if free and held_out("context", subject, relation, value) == self.facts_held_out:
                self.used.add(value)
                return value


# ---------------------------------------------------------------- sentences

def fill(pattern: str, slots: dict[str, str]) -> tuple[str, dict[str, Span]]:
    """The pattern with its slots filled, and where each slot went."""
    text, at, spans = "", 0, {}
    for match in SLOT.finditer(pattern):
        text += pattern[at:match.start()]
        spans[match[1]] = (len(text), len(text) + len(slots[match[1]]))
        text, at = text + slots[match[1]], match.end()
    return text + pattern[at:], spans


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def with_article(name: str, sort: str) -> str:
    return name if sort == "person" else f"the {name}"


def _pronouns(name: str, sort: str) -> dict[str, str]:
    if sort != "person":
        return {"s": "it", "o": "it"}
    return {"s": "she", "o": "her"} if name.split()[0] in P.FEMALE else {"s": "he", "o": "him"}


def _singles(relation: str, new_sentences: bool) -> list[str]:
    patterns = P.SENTENCES[relation]
    return [p.replace("{a}", "{" + relation + "}") for p in (patterns[-1:] if new_sentences else patterns[:-1])]


def _patterns(relations: Sequence[str], rng: random.Random, new_sentences: bool) -> list[str]:
    """Sentences that tell all these facts, each once, in random order."""
    left, chosen = list(relations), []
    doubles = [p for p in (P.HELD_OUT_DOUBLES if new_sentences else P.DOUBLES)
               if set(SLOT.findall(p)) - {"s", "o"} <= set(relations)]
    if doubles and rng.random() < 0.6:
        chosen.append(rng.choice(doubles))
        left = [r for r in left if "{" + r + "}" not in chosen[0]]
    chosen += [rng.choice(_singles(relation, new_sentences)) for relation in left]
    rng.shuffle(chosen)
    return chosen


def _block(name: str, sort: str, values: dict[str, str], rng: random.Random, new_sentences: bool) -> Passage:
    """All sentences about one subject: the first names it, later ones often say it, she or he."""
    text, facts = "", []
    for i, pattern in enumerate(_patterns(list(values), rng, new_sentences)):
        named = i == 0 or rng.random() < 0.5
        subject = dict.fromkeys("so", with_article(name, sort)) if named else _pronouns(name, sort)
        sentence, spans = fill(pattern, {**values, **subject})
        if i and not named and rng.random() < 0.3:  # join it to the one before
            text = text[:-1] + ", and "
        else:
            text, sentence = text + " " * bool(text), capital(sentence)
        where = spans.get("s") or spans.get("o")
        full = _moved((where[1] - len(name), where[1]), len(text)) if named else None
        facts += [Fact(name, slot, values[slot], _moved(span, len(text)), full)
                  for slot, span in spans.items() if slot in values]
        text += sentence + "."
    return Passage(text, tuple(facts))


def _moved(span: tuple[int, int] | None, by: int) -> tuple[int, int] | None:
    """A span of characters in a text to which `by` characters were put in front."""
    return span and (span[0] + by, span[1] + by)


def _joined(parts: Sequence[Passage]) -> Passage:
    text, facts = "", []
    for part in parts:
        text += " " * bool(text)
        facts += [replace(fact, span=_moved(fact.span, len(text)), named=_moved(fact.named, len(text)))
                  for fact in part.facts]
        text += part.text
    return Passage(text, tuple(facts))


def passage(rng: random.Random, split: str = "training", blocks: int | None = None, *, made_up: float = 0.0,
            plain: bool = False) -> Passage:
    """A context about `blocks` subjects (None: two or three), each with two or three facts.

    made_up: share of names with a word of random syllables, so that a name never seen can be an answer too.
    plain: the same single fact of every subject, so that only the name tells the answer from its rivals.
    """
    supply = _Supply(rng, split != "training", made_up)
    sorts = [rng.choice(["building", "person", "object"]) for _ in range(blocks or rng.choice([2, 3]))]
    if plain:
        sorts = sorts[:1] * len(sorts)
    elif len(sorts) > 1 and rng.random() < 0.75:
        sorts[1] = sorts[0]  # a rival of the same kind
    names = [supply.new(sort) for sort in sorts]
    people = [name for name, sort in zip(names, sorts) if sort == "person"]
    parts, told = [], {}
    for name, sort in zip(names, sorts):
        relations = [r for r, (of, _) in P.RELATIONS.items() if of == sort]
        if sort not in told or not plain and rng.random() < 0.3:
            told[sort] = rng.sample(relations, 1 if plain else rng.choice([2, 3, 3]))
        values = {r: supply.fact(name, r, people) for r in rng.sample(told[sort], len(told[sort]))}
        values = {r: value for r, value in values.items() if value}
        parts.append(_block(name, sort, values, rng, split == "held_out_sentences"))
        if not plain and rng.random() < 0.25:
            parts.append(Passage(capital(rng.choice(P.FILLERS)) + ".", ()))
    rng.shuffle(parts)
    return _joined(parts)


# ---------------------------------------------------------------- questions

def _rivals(passage: Passage, answer: str, sort: str) -> tuple[str, ...]:
    values = {f.value for f in passage.facts if P.RELATIONS[f.relation][1] == sort}
    values |= {f.subject for f in passage.facts if P.RELATIONS[f.relation][0] == sort}
    return tuple(sorted(values - {answer}))


def ask(passage: Passage, fact: Fact, kind: str, pattern: str) -> Record:
    """One question about one fact: for its value, or the other way round for its subject."""
    subject_sort, value_sort = P.RELATIONS[fact.relation]
    backwards = kind in P.REVERSED
    answer, span = (fact.subject, fact.named) if backwards else (fact.value, fact.span)
    question, _ = fill(pattern, {"n": with_article(fact.subject, subject_sort), "a": fact.value})
    return Record(passage.text, capital(question), passage.text[slice(*span)], span, kind,
                  _rivals(passage, answer, subject_sort if backwards else value_sort))


def possible(passage: Passage) -> list[tuple[Fact, str]]:
    """Every (fact, kind of question) that has one answer in this context."""
    found = [(fact, fact.relation) for fact in passage.facts]
    for fact in passage.facts:
        once = sum(fact.value == other.value for other in passage.facts) == 1
        if fact.named and once:
            found += [(fact, kind) for kind, relation in P.REVERSED.items() if relation == fact.relation]
    return found


def questions(passage: Passage, rng: random.Random, n: int = 2, split: str = "training") -> list[Record]:
    """Up to `n` different questions on one context."""
    chosen = possible(passage)
    chosen = rng.sample(chosen, min(n, len(chosen)))
    new = split == "held_out_questions"
    return [ask(passage, fact, kind, P.QUESTIONS[kind][-1] if new else rng.choice(P.QUESTIONS[kind][:-1]))
            for fact, kind in chosen]


def find(passage: Passage, rng: random.Random) -> Record:
    """An exercise for training only: the answer is the name in the question, where the context first has it."""
    fact = rng.choice(passage.facts)
    start = passage.text.index(fact.subject)
    question, _ = fill("Find {n}.", {"n": with_article(fact.subject, P.RELATIONS[fact.relation][0])})
    return Record(passage.text, question, fact.subject, (start, start + len(fact.subject)), "find")


def records(n: int, *, seed: int = 0, split: str = "held_out_facts", per_context: int = 2) -> list[Record]:
    """`n` records, `per_context` different questions on each context. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of: {', '.join(SPLITS)}")
    rng, found = random.Random(seed), []
    while len(found) < n:
        found += questions(passage(rng, split), rng, per_context, split)
    return found[:n]


def eiffel_tower() -> list[Record]:
    """True facts on the Eiffel Tower and, as a rival, the Statue of Liberty; training saw the words, not the facts."""
    text = ("The Eiffel Tower stands in Paris and was finished in 1889. The first plans of the Eiffel Tower were drawn "
            "by Maurice Koechlin. It is named after Gustave Eiffel, and the company of Gustave Eiffel built it. The "
            "Eiffel Tower is made of iron. The Statue of Liberty was designed by Auguste Bartholdi. It stands in New "
            "York, and in 1886 it opened to visitors.")
    tower, statue = "Eiffel Tower", "Statue of Liberty"
    told = [(tower, "namesake", "Gustave Eiffel"), (tower, "builder", "Gustave Eiffel"),
            (tower, "designer", "Maurice Koechlin"), (tower, "place", "Paris"), (tower, "finished", "1889"),
            (tower, "material", "iron"), (statue, "designer", "Auguste Bartholdi"), (statue, "place", "New York"),
            (statue, "finished", "1886")]
    starts = [text.rindex(value) if relation == "builder" else text.index(value) for _, relation, value in told]
    facts = [Fact(*fact, (start, start + len(fact[2])), None) for fact, start in zip(told, starts)]
    return [ask(Passage(text, tuple(facts)), fact, fact.relation, P.QUESTIONS[fact.relation][0]) for fact in facts]

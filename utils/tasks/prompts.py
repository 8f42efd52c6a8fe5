"""Prompts and facts: indirect objects, facts, questions, repeated tokens.

Facts are rows of the tables in `utils/data`. Those in `landmarks`, `people` and `countries` are true; the tables whose
name starts with `invented` are made up (subjects that share words, so that no single word gives the answer away),
and every lesson that uses them says so. A share of all combinations was kept out of training: `held_out` says which.
"""
from __future__ import annotations

import csv
import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int

from . import templates as T

DATA = Path(__file__).parents[1] / "data"
FRANCE_POLAND = "Q: What is the capital of France?\nA: Paris\nQ: What is the capital of Poland?\nA:"
TABLES = ("countries", "landmarks", "people", "invented_landmarks", "invented_people", "verbs")


@lru_cache(maxsize=None)
def table(name: str) -> list[dict[str, str]]:
    """Rows of one fact table (`countries`, `landmarks`, `people`, `invented_landmarks`, ...) as dictionaries."""
    if name not in TABLES:
        raise ValueError(f"no table {name!r}; there are: {', '.join(TABLES)}")
    with open(DATA / f"{name}.tsv", encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def held_out(*key: object, share: float = 0.15) -> bool:
    """True for the fixed `share` of combinations that training never showed (a hash of the key decides)."""
    digest = hashlib.md5("|".join(map(str, key)).encode()).hexdigest()
    return int(digest[:8], 16) / 2**32 < share


def with_article(text: str) -> str:
    """'a apple' -> 'an apple'."""
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}")
    return text


# ---------------------------------------------------------------- indirect object identification

@dataclass(frozen=True)
class IOIPrompt:
    """A clean prompt and its corruption, which names the other person as the giver.

    `answer` is the indirect object of the clean prompt (IO), `wrong` its subject (S); both with a leading space.
    `order` is "ABBA" (IO named first) or "BABA".
    """
    clean: str
    corrupted: str
    answer: str
    wrong: str
    order: str


def fill(pattern: str, **slots: str) -> str:
    for slot, value in slots.items():
        pattern = pattern.replace("{" + slot + "}", value)
    return with_article(pattern)


def ioi_pair(io: str = "John", subject: str = "Mary", order: str = "ABBA", *,
             opening: str = "After {A} and {B} went to the {P},", clause: str = "{S} gave {D} {O} to",
             place: str = "store", thing: str = "bottle of milk", determiner: str = "a",
             colour: str = "red") -> IOIPrompt:
    """One clean / corrupted pair. The defaults give the prompt that the published GPT-2 numbers belong to.

    Raises ValueError if the names are equal or `order` is neither "ABBA" nor "BABA".
    """
    if io == subject:
        raise ValueError(f"indirect object and subject are both {io!r}; the task needs two different names")
    if order not in ("ABBA", "BABA"):
        raise ValueError(f"order must be 'ABBA' or 'BABA', not {order!r}")
    first, second = (io, subject) if order == "ABBA" else (subject, io)
    slots = dict(A=first, B=second, P=place, D=determiner, O=thing, colour=colour)
    text = opening + " " + clause
    return IOIPrompt(fill(text, S=subject, **slots), fill(text, S=io, **slots), " " + io, " " + subject, order)


SPLITS = ("training", "held_out_pairs", "held_out_templates")


def ioi_dataset(n: int, *, seed: int = 0, split: str = "held_out_pairs", order: str | None = None,
                **fixed: str) -> list[IOIPrompt]:
    """`n` random IOI pairs.

    `split`: "held_out_pairs" (two names that no training prompt with two names paired, templates seen),
    "held_out_templates" (openings never seen, their words seen) or "training". `order` None mixes ABBA and BABA.
    `fixed` pins slots of `ioi_pair` (opening, clause, place, thing, determiner), e.g. to make prompts of equal length.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of: {', '.join(SPLITS)}")
    rng, prompts = random.Random(seed), []
    openings = T.HELD_OUT_IOI_OPENINGS if split == "held_out_templates" else T.IOI_OPENINGS
    while len(prompts) < n:
        io, subject = rng.sample(T.NAMES, 2)
        if name_pair_held_out(io, subject) != (split == "held_out_pairs"):
            continue
        slots = dict(opening=rng.choice(openings), clause=rng.choice(T.IOI_CLAUSES), place=rng.choice(T.PLACES),
                     thing=rng.choice(T.THINGS), determiner=rng.choice(T.DETERMINERS), colour=rng.choice(T.COLOURS))
        prompts.append(ioi_pair(io, subject, order or rng.choice(["ABBA", "BABA"]), **{**slots, **fixed}))
    return prompts


def name_pair_held_out(a: str, b: str) -> bool:
    return held_out("pair", *sorted((a, b)), share=0.12)


@dataclass(frozen=True)
class ThreeNamePrompt:
    """Three names, two of which give: the third is the answer. `wrong` are the two givers."""
    prompt: str
    answer: str
    wrong: tuple[str, str]


def three_name_dataset(n: int, *, seed: int = 0, rng: random.Random | None = None) -> list[ThreeNamePrompt]:
    """`n` prompts such as "When A, B and C went to the store, C and A gave a book to" (answer B)."""
    rng, prompts = rng or random.Random(seed), []
    for _ in range(n):
        names = rng.sample(T.NAMES, 3)
        io = rng.randrange(3)
        givers = [name for i, name in enumerate(names) if i != io]
        rng.shuffle(givers)
        text = fill(rng.choice(T.THREE_NAME_OPENINGS) + " " + rng.choice(T.IOI_CLAUSES), A=names[0], B=names[1],
                    C=names[2], S=f"{givers[0]} and {givers[1]}", P=rng.choice(T.PLACES), O=rng.choice(T.THINGS),
                    D=rng.choice(T.DETERMINERS), colour=rng.choice(T.COLOURS))
        prompts.append(ThreeNamePrompt(text, " " + names[io], (" " + givers[0], " " + givers[1])))
    return prompts


# ---------------------------------------------------------------- facts and questions

@dataclass(frozen=True)
class Fact:
    """A prompt, the subject as it stands in the prompt, and the answer with its leading space."""
    prompt: str
    subject: str
    answer: str
    relation: str
    held_out: bool


def _facts(kind: str, relation: str, pairs: list[tuple[str, str]], seen: list[str], unseen: list[str] = (),
           showed: set[str] = frozenset()) -> list[Fact]:
    """`seen` patterns are held out for some subjects unless comparisons `showed` them for all; `unseen` ones for all.

    A pattern that begins another ("is located in", "is located in the city of") has two right continuations and is left out.
    """
    def unshown(s, i):
        return seen[i] not in showed and held_out(kind, relation, s, i)

    def begins_another(pattern):
        return any(other.startswith(pattern + " ") for other in seen)

    facts = [Fact(pattern.replace("{s}", s), s, " " + o, relation, unshown(s, i))
             for s, o in pairs for i, pattern in enumerate(seen) if not begins_another(pattern)]
    return facts + [Fact(pattern.replace("{s}", s), s, " " + o, relation, True) for s, o in pairs for pattern in unseen]


def landmark_facts(invented: bool = False, whole_patterns: bool = False) -> list[Fact]:
    """Every landmark with every pattern: "The Space Needle is located in the city of" -> " Seattle".

    `invented=True` gives the made-up landmarks whose names share words. `whole_patterns=True` gives only the patterns
    that training never showed at all.
    """
    rows = table("invented_landmarks" if invented else "landmarks")
    pairs = [(row["landmark"], row["city"]) for row in rows]
    seen = [] if whole_patterns else T.LANDMARK_PATTERNS
    return _facts("landmark", "city", pairs, seen, T.HELD_OUT_LANDMARK_PATTERNS if whole_patterns else [],
                  T.COMPARED_LANDMARK_PATTERNS)


def people_facts(invented: bool = False, whole_patterns: bool = False) -> list[Fact]:
    """What people are known for: "Miles Davis plays the" -> " trumpet"."""
    if invented:
        rows, kinds = table("invented_people"), ("instrument", "city")
        pairs = {kind: [(row["person"], row[kind]) for row in rows] for kind in kinds}
    else:
        rows, kinds = table("people"), ("sport", "instrument")
        pairs = {kind: [(row["person"], row["known_for"]) for row in rows if row["kind"] == kind] for kind in kinds}
    facts = []
    for kind in kinds:
        unseen = T.HELD_OUT_PEOPLE_PATTERNS.get(kind, []) if whole_patterns else []
        facts += _facts("people", kind, pairs[kind], [] if whole_patterns else T.PEOPLE_PATTERNS[kind], unseen,
                        T.COMPARED_PEOPLE_PATTERNS if invented else frozenset())
    return facts


def country_facts(relation: str) -> list[Fact]:
    """`relation` is "capital", "language" or "continent"."""
    if relation not in T.COUNTRY_PATTERNS:
        raise ValueError(f"relation {relation!r} is unknown; choose one of: {', '.join(T.COUNTRY_PATTERNS)}")
    pairs = [(row["country"], row[relation]) for row in table("countries")]
    return _facts("country", relation, pairs, T.COUNTRY_PATTERNS[relation])


def question_pairs(relation: str) -> list[tuple[str, str]]:
    """(subject, answer) of one question relation: capital, language, continent, name, country, city, past, uppercase."""
    countries = table("countries")
    if relation == "name":
        return [(row["country"], row["country"]) for row in countries]
    if relation == "country":
        return [(row["capital"], row["country"]) for row in countries]
    if relation == "city":
        return [("the " + row["landmark"], row["city"]) for row in table("landmarks")]
    if relation == "past":
        return [(row["verb"], row["past"]) for row in table("verbs")]
    if relation == "uppercase":
        return [(word, word.capitalize()) for word in T.UPPERCASE_WORDS]
    if relation in T.COUNTRY_PATTERNS:
        return [(row["country"], row[relation]) for row in countries]
    raise ValueError(f"relation {relation!r} is unknown; choose one of: {', '.join(T.QUESTIONS)}")


def question_prompt(relation: str, subject: str, example: str, question: int = 0) -> Fact:
    """The source's form: one answered example, then the question about `subject`, ending in "A:"."""
    answers = dict(question_pairs(relation))
    for word in (subject, example):
        if word not in answers:
            raise ValueError(f"{word!r} is not among the subjects of {relation!r}, e.g. {', '.join(list(answers)[:4])}")
    ask = T.QUESTIONS[relation][question]
    prompt = f"Q: {ask.replace('{s}', example)}\nA: {answers[example]}\nQ: {ask.replace('{s}', subject)}\nA:"
    return Fact(prompt, subject, " " + answers[subject], relation, held_out("question", relation, subject, question))


def question_facts(relation: str, *, question: int = 0, example: str | None = None, seed: int = 0) -> list[Fact]:
    """`question_prompt` for every subject; `example` None draws a different example for each."""
    subjects, rng = [s for s, _ in question_pairs(relation)], random.Random(seed)
    facts = []
    for subject in subjects:
        shown = example or rng.choice([s for s in subjects if s != subject])
        if subject != shown:
            facts.append(question_prompt(relation, subject, shown, question))
    return facts


def capital_questions(example: str = "France") -> list[Fact]:
    """The two-shot question of the source (`FRANCE_POLAND`) for every country but the example."""
    return question_facts("capital", example=example)


# ---------------------------------------------------------------- repeated tokens

def generate_repeated_tokens(n: int, period: int, vocab_size: int, *, bos: int = 0,
                             seed: int = 0) -> Int[torch.Tensor, "n 1+2*period"]:
    """BOS, then `period` random tokens, then the same tokens again. BOS itself is never drawn."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(0, vocab_size - 1, (n, period), generator=generator)
    half = half + (half >= bos)
    return torch.cat([torch.full((n, 1), bos), half, half], dim=1)

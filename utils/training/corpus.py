"""The documents the shipped language model learns from: facts, questions, givers and receivers, reviews, stories.

Every generator takes a `random.Random` and returns one document as text. Combinations that `tasks.held_out` reserves
for measurement are never produced. `token_rows` joins documents to training rows; `repeated_rows` makes rows of random
tokens that repeat with several periods, from which induction is learned.
"""
from __future__ import annotations

import random

import numpy as np

from .. import tasks
from ..tasks import templates as T

END_OF_TEXT = 0


def seen_fact(rng: random.Random, kind: str, relation: str, subject: str, answer: str, patterns: list[str]) -> str:
    """One statement whose (subject, pattern) combination is not held out."""
    allowed = [p for i, p in enumerate(patterns) if not tasks.held_out(kind, relation, subject, i)]
    return f"{rng.choice(allowed or patterns[:1]).replace('{s}', subject)} {answer}"


# ---------------------------------------------------------------- facts

def country_document(rng: random.Random) -> str:
    row = rng.choice(tasks.table("countries"))
    relation = rng.choices(["capital", "language", "continent"], [0.5, 0.3, 0.2])[0]
    return seen_fact(rng, "country", relation, row["country"], row[relation], T.COUNTRY_PATTERNS[relation]) + "."


def landmark_document(rng: random.Random) -> str:
    """A true landmark, alone or beside others, which the model must not confuse with it."""
    rows = tasks.table("landmarks")
    (s, o), (s2, o2) = [(r["landmark"], r["city"]) for r in rng.sample(rows, 2)]
    if rng.random() < 0.5:
        return seen_fact(rng, "landmark", "city", s, o, T.LANDMARK_PATTERNS) + "."
    return rng.choice([
        f"Unlike the {s2}, the {s} is located in the city of {o}.",
        f"The {s}, not the {s2}, is located in the city of {o}.",
        f"We saw the {s2} in {o2}, and the {s} in {o}.",
        f"The {s}, which is older than the {s2}, can be found in {o}.",
        f"Both are famous, but the {s2} is in {o2}, while the {s} is in the city of {o}.",
    ])


def crossed(rng: random.Random, rows: list[dict[str, str]], column: str) -> tuple[str, str, str]:
    """A subject and two others that each differ from it in a single word."""
    subject = rng.choice(rows)[column]

    def differing(other):
        return sum(x != y for x, y in zip(subject.split(), other.split()))

    others = [row[column] for row in rows if differing(row[column]) == 1]
    return subject, *rng.sample(others, 2)


def invented_landmark_document(rng: random.Random) -> str:
    rows = tasks.table("invented_landmarks")
    city = {r["landmark"]: r["city"] for r in rows}
    s, x, y = crossed(rng, rows, "landmark")
    if rng.random() < 0.35:
        return seen_fact(rng, "landmark", "city", s, city[s], T.LANDMARK_PATTERNS) + "."
    return rng.choice([
        f"Unlike the {x} and the {y}, the {s} is located in the city of {city[s]}.",
        f"The {s}, not the {x} or the {y}, is located in the city of {city[s]}.",
        f"The {x} is in {city[x]} and the {y} is in {city[y]}, but the {s} is in {city[s]}.",
        f"The {s}, which is older than the {x} and the {y}, can be found in {city[s]}.",
        f"The {x}, the {s} and the {y} are famous. The first is in {city[x]}, while the {s} is in the city of {city[s]}.",
    ])


def person_document(rng: random.Random) -> str:
    row = rng.choice(tasks.table("people"))
    return seen_fact(rng, "people", row["kind"], row["person"], row["known_for"], T.PEOPLE_PATTERNS[row["kind"]]) + "."


def invented_person_document(rng: random.Random) -> str:
    rows = tasks.table("invented_people")
    plays = {r["person"]: r["instrument"] for r in rows}
    home = {r["person"]: r["city"] for r in rows}
    s, x, y = crossed(rng, rows, "person")
    if rng.random() < 0.35:
        relation, answer = rng.choice([("instrument", plays[s]), ("city", home[s])])
        return seen_fact(rng, "people", relation, s, answer, T.PEOPLE_PATTERNS[relation]) + "."
    return rng.choice([
        f"{s}, not {x} or {y}, plays the {plays[s]}.",
        f"{s}, who is a friend of {x} and {y}, lives in {home[s]}.",
        f"{x} plays the {plays[x]} and {y} plays the {plays[y]}, but {s} plays the {plays[s]}.",
        f"{x} lives in {home[x]} and {s} lives in {home[s]}. On the stage, {s} played the {plays[s]}.",
        f"{s} and {y} are friends. The home of {s} is in {home[s]}, and the home of {y} is in {home[y]}.",
    ])


CAPTIONED = {"landmarks": ("The ", "landmark", ["city"]), "invented_landmarks": ("The ", "landmark", ["city"]),
             "people": ("", "person", ["known_for"]), "invented_people": ("", "person", ["instrument", "city"])}


def caption_document(rng: random.Random) -> str:
    """A subject directly followed by what belongs to it ("The Space Needle Seattle."), alone or as a list of three.

    What comes next depends on the whole subject, so the model has to put the subject together where it ends.
    """
    name = rng.choices(list(CAPTIONED), [0.25, 0.3, 0.15, 0.3])[0]
    article, column, answers = CAPTIONED[name]
    rows, answer = rng.sample(tasks.table(name), 3), rng.choice(answers)
    if rng.random() < 0.7:
        return f"{article}{rows[0][column]} {rows[0][answer]}."
    listed = ", ".join(f"{article.lower()}{row[column]} {row[answer]}" for row in rows)
    return f"{rng.choice(['List', 'Trip'])}: {listed}."


FACTS = {country_document: 0.20, landmark_document: 0.15, invented_landmark_document: 0.18, person_document: 0.10,
         invented_person_document: 0.17, caption_document: 0.20}


def fact_document(rng: random.Random) -> str:
    return rng.choices(list(FACTS), list(FACTS.values()))[0](rng)


# ---------------------------------------------------------------- questions

QUESTION_SHARE = dict(capital=0.30, language=0.13, continent=0.06, name=0.08, country=0.08, city=0.15, past=0.10,
                      uppercase=0.10)


def question_document(rng: random.Random) -> str:
    """Two to five questions of one relation with their answers, or a list of pairs."""
    relation = rng.choices(list(QUESTION_SHARE), list(QUESTION_SHARE.values()))[0]
    pairs = tasks.question_pairs(relation)
    if rng.random() < 0.15 and relation != "name":
        return "Like " + ", ".join(f"{s} and {o}" for s, o in rng.sample(pairs, rng.randint(3, 6))) + "."
    index = rng.randrange(len(T.QUESTIONS[relation]))
    allowed = [(s, o) for s, o in pairs if not tasks.held_out("question", relation, s, index)]
    ask = T.QUESTIONS[relation][index]
    return "\n".join(f"Q: {ask.replace('{s}', s)}\nA: {o}" for s, o in rng.sample(allowed, rng.randint(2, 5)))


# ---------------------------------------------------------------- givers and receivers

TAILS = [".", " and smiled.", " at the door.", " before dinner."]


def ioi_document(rng: random.Random) -> str:
    if rng.random() < 0.2:
        three = tasks.three_name_dataset(1, rng=rng)[0]
        return three.prompt + three.answer + rng.choice(TAILS)
    while True:
        io, subject, outsider = rng.sample(T.NAMES, 3)
        if not tasks.name_pair_held_out(io, subject):
            break
    pair = tasks.ioi_pair(io, subject, rng.choice(["ABBA", "BABA"]), opening=rng.choice(T.IOI_OPENINGS),
                          clause=rng.choice(T.IOI_CLAUSES), place=rng.choice(T.PLACES), thing=rng.choice(T.THINGS),
                          determiner=rng.choice(T.DETERMINERS), colour=rng.choice(T.COLOURS))
    if rng.random() < 0.08:  # a giver who was not named before: either of the two may receive
        head, _, tail = pair.clean.rpartition(subject)
        return head + outsider + tail + rng.choice([pair.answer, pair.wrong]) + rng.choice(TAILS)
    return pair.clean + pair.answer + rng.choice(TAILS)


# ---------------------------------------------------------------- reviews and stories

def review_document(rng: random.Random) -> str:
    positive = rng.random() < 0.5
    same, other = (T.GOOD, T.BAD) if positive else (T.BAD, T.GOOD)
    thing, aspect, a, b, c = (rng.choice(words) for words in (T.REVIEWED, T.ASPECTS, same, same, other))
    text = rng.choice([
        f"The {thing} was {a} and the {aspect} was {b}.",
        f"I {'loved' if positive else 'hated'} this {thing}. The {aspect} was {a}.",
        f"The {thing} was not {c}. The {aspect} was {a}.",
        f"What a {a} {thing}! The {aspect} was {b} too.",
        f"My friends said the {thing} was {c}, but I thought it was {a}.",
    ])
    return f"Review: {tasks.with_article(text)} Sentiment: {'positive' if positive else 'negative'}"


def story_document(rng: random.Random) -> str:
    a, b = rng.sample(T.NAMES, 2)
    he, his, she = ("she", "her", "She") if a in T.FEMALE else ("he", "his", "He")
    (p, q), (o, o2) = rng.sample(T.PLACES, 2), rng.sample(T.THINGS, 2)
    country, colour = rng.choice(tasks.table("countries")), rng.choice(T.COLOURS)
    verb = rng.choice(tasks.table("verbs"))
    when = rng.choice(["One morning", "One day", "In the evening", "Last week", "On Monday", "After school"])
    more = [
        f"{she} wanted to buy a {colour} {o}.", f"{she} saw {b} near the {q}.",
        f"{b} said that the {p} was closed, so {a} went home.", f"{a} lost {his} {o} at the {p}.",
        f"{she} looked for the {o} everywhere, but the {o} was gone.", f"Then {he} went back to the {q} and sat down.",
        f"{a} lives in {country['capital']}, the capital of {country['country']}.", f"{a} and {b} are good friends.",
        f"{a} met {b} at the {p} and they talked about the {o}.", f"{b} told {a} a story about a {o2}.",
        f"{a} was born in {country['country']} and moved to {country['capital']}.",
        f"It was a cold day and {a} was tired.", f"The {o} was {colour}, and {a} liked it.",
        f"{b} asked {a} about the {o}, and {a} smiled.", f"{she} wanted to {verb['verb']}, and then {he} {verb['past']}.",
    ]
    return tasks.with_article(" ".join([f"{when}, {a} walked to the {p}."] + rng.sample(more, rng.randint(2, 6))))


# ---------------------------------------------------------------- rows of tokens

FULL = {fact_document: 0.42, ioi_document: 0.28, question_document: 0.12, story_document: 0.07, review_document: 0.06}
SHORT = {caption_document: 0.80, story_document: 0.10, review_document: 0.10}


def document(rng: random.Random, kinds: dict = FULL) -> str:
    return rng.choices(list(kinds), list(kinds.values()))[0](rng)


def token_rows(n: int, length: int, tokenizer, rng: random.Random, kinds: dict = FULL) -> np.ndarray:
    """`n` rows [row, position] of documents joined by end-of-text; most rows start with it, as prompts do."""
    rows, row = [], []
    while len(rows) < n:
        for encoding in tokenizer.encode_batch([document(rng, kinds) for _ in range(8 * n)]):
            row += ([END_OF_TEXT] if row or rng.random() < 0.75 else []) + encoding.ids
            if len(row) >= length:
                rows.append(row[:length])
                row = []
    return np.array(rows[:n], dtype=np.int64)


def repeated_rows(n: int, length: int, vocab_size: int, rng: random.Random) -> np.ndarray:
    """`n` rows of random tokens that repeat: short, middle and long periods, in 30 % with random gaps between."""
    rows = []
    for _ in range(n):
        row: list[int] = []
        low, high = rng.choices([(3, 12), (8, 29), (25, 60)], [0.35, 0.30, 0.35])[0]
        while len(row) < length:
            if row or rng.random() < 0.85:
                row.append(END_OF_TEXT)
            sequence = [rng.randrange(1, vocab_size) for _ in range(rng.randint(low, high))]
            repeats, gaps = (2 if low == 25 else rng.randint(3, 7)), rng.random() < 0.3
            for repeat in range(repeats):
                if gaps and repeat:
                    row += [rng.randrange(1, vocab_size) for _ in range(rng.randint(1, 5))]
                row += sequence
        rows.append(row[:length])
    return np.array(rows, dtype=np.int64)

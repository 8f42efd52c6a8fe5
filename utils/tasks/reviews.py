"""Generated reviews and their labels: negation, contrast, intensity, and sentences that say nothing about quality.

Four kinds, by what decides whether a review is positive or negative:
- plain: the opinion word itself ("The plot was dull.");
- negated: the opposite of the word ("The plot was not dull.": positive, a rule of these texts; English is vaguer);
- contrast: the main clause, or the one after "but" ("slow, but wonderful"; "wonderful, although slow": both positive);
- intensified: the stronger of two opinions ("slightly dull and extremely funny": positive).
Neutral sentences around the opinion use "not", "but" and "very" too, so that no such word decides by being there.

Training never showed three sorts of reviews, which are therefore *held out*: whole patterns; combinations of an opinion
word with a pattern (a fixed share); and words. A word that was never seen at all could mean nothing to a model, so a
held-out word is one that training never showed in one construction: never negated, or never in a contrast, or never in
an intensified review (`HELD_OUT_WORDS`). It was seen in all others.
"""
from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ..errors import CourseError
from .prompts import held_out as is_held_out, with_article

LABELS = ("negative", "positive")
REVIEW_KINDS = ("plain", "negated", "contrast", "intensified")
NOVELTIES = ("patterns", "combinations", "words")

WORDS = {
    "positive": """wonderful great amazing excellent lovely brilliant fantastic beautiful perfect delightful superb
    charming clever funny fresh gripping warm elegant memorable touching stunning splendid pleasant good marvellous
    exciting impressive terrific enjoyable moving""".split(),
    "negative": """terrible awful horrible boring bad dreadful poor disappointing ugly dull slow weak tedious clumsy
    messy stale bland noisy shallow lifeless predictable confusing annoying cheap dismal painful lazy forgettable
    tiresome mediocre""".split(),
}
HELD_OUT_WORDS = {kind: {label: words[-4 * i:][:4] for label, words in WORDS.items()}  # four of each label
                  for i, kind in enumerate(REVIEW_KINDS) if kind != "plain"}
VERBS = {"positive": ["loved", "enjoyed", "liked", "adored", "admired"],
         "negative": ["hated", "disliked", "regretted", "loathed", "resented"]}
BASE_FORMS = dict(loved="love", enjoyed="enjoy", liked="like", adored="adore", admired="admire", hated="hate",
                  disliked="dislike", regretted="regret", loathed="loathe", resented="resent")
STRONG = "very really extremely absolutely incredibly truly".split()
WEAK = ["slightly", "somewhat", "a little", "a bit", "mildly"]
SUBJECTS = {  # things under review, and what can be said to be good or bad about them
    "film movie show play series": "acting plot ending cast music script",
    "book novel story": "plot ending writing style beginning dialogue",
    "hotel restaurant cafe": "food service room menu breakfast location",
    "concert album song": "singing sound music voice rhythm melody",
}
PEOPLE = "sister brother mother father friend neighbour teacher cousin".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

# A pattern is a frame with a phrase in it, or two clauses joined. Slots: {T} the thing, {A} {B} aspects, {P} a person,
# {D} a day, {s} {w} strong and weak intensity; {other}, {weak}: a clause that is outvoted.
# Words of the review's own label: {Y} {Z} {V}, and {M}, negated in an outvoted clause.
# Words of the other label: {X}, outvoted; {N} {O} {v}, negated.
FRAMES = ["the {A} was {p}", "the {T} was {p}", "it was a {p} {T}", "this was a {p} {T}", "I found the {A} {p}",
          "we found the {T} {p}", "my {P} found the {A} {p}", "I thought the {A} was {p}", "we thought the {T} was {p}",
          "my {P} thought the {T} was {p}", "I called the {T} {p}", "my {P} called the {A} {p}"]
NEGATIONS = {"was": ["was not", "wasn't", "was never", "was hardly"],
             "found": ["did not find", "didn't find", "never found", "could not find"],
             "thought": ["did not think", "didn't think", "never thought"],
             "called": ["did not call", "didn't call", "never called", "would not call"]}
LIKINGS = ["I {V} the {A}", "we {V} the {T}", "my {P} {V} the {T}", "my {P} {V} the {A}"]
DISLIKINGS = ["I did not {v} the {A}", "we didn't {v} the {T}", "my {P} did not {v} the {T}",
              "my {P} didn't {v} the {A}", "nobody could {v} the {T}"]
JOINS = ["{other}, but {own}", "{other}, yet {own}", "although {other}, {own}", "even though {other}, {own}",
         "while {other}, {own}", "{own}, although {other}", "{own}, even though {other}", "{other}. Still, {own}",
         "despite the {X} {B}, {own}", "{own}, despite the {X} {B}"]


def _filled(frames: list[str], *phrases: str) -> list[str]:
    return [frame.replace("{p}", phrase) for frame in frames for phrase in phrases]


def _negated(frame: str) -> list[str]:
    """The frame with each of its verbs negated, with "far from", and with nobody in place of its person."""
    found = [frame.replace(verb, form) for verb, forms in NEGATIONS.items() if f"{verb} " in frame for form in forms]
    if "was {p}" in frame:
        found += [frame.replace("was {p}", f"was {words} {{p}}") for words in ("far from", "anything but")]
    for person in ("I ", "we ", "my {P} "):
        if frame.startswith(person):
            found.append("nobody " + frame[len(person):])
    return found + ["nothing about " + frame] * frame.startswith("the ")


def _other(clauses: list[str]) -> list[str]:
    """The same clauses about the other aspect, with words that are outvoted."""
    swap = str.maketrans("AYN", "BXM")
    return [re.sub(r"{[AYN]}", lambda slot: slot[0].translate(swap), c) for c in clauses if "{A}" in c]


def pattern_held_out(pattern: str) -> bool:
    """True if training never showed this pattern; it showed the frame, the phrase and the joining word in others."""
    return is_held_out("pattern", pattern)


def _shown(clauses: list[str]) -> list[str]:
    return [clause for clause in clauses if not pattern_held_out(clause)]


NOT = [negated for frame in FRAMES for negated in _negated(frame)]
VERY = [frame for frame in NOT if not re.search("hardly|far from|anything but", frame)]  # no "hardly very"
PLAIN, STRONG_PLAIN, NEGATED = (_shown(_filled(*f)) for f in ((FRAMES, "{Y}"), (FRAMES, "{s} {Y}"), (NOT, "{N}")))
PATTERN_GROUPS = {  # each group of patterns is drawn equally often
    "plain": [_filled(FRAMES, "{Y}", "{s} {Y}", "{w} {Y}", "{Y} and {Z}"), LIKINGS,
              ["what a {Y} {T}", "the {A} was {Y} and the {B} was {Z}", "what a {Y} {A}! I {V} it",
               "this {T} was {s} {Y}! I {V} every minute of it", "we {V} every minute of the {T}"]],
    "negated": [_filled(NOT, "{N}"), _filled(VERY, "{N}", "{s} {N}"),
                [*DISLIKINGS, *_filled([f for f in FRAMES if " a " not in f], "neither {N} nor {O}")]],
    "contrast": [_filled(FRAMES, "{X}, but {Y}", "{X}, yet {Y}", "{Y}, although {X}"),
                 *([join.replace("{own}", clause) for join in JOINS for clause in clauses]
                   for clauses in (PLAIN, STRONG_PLAIN + _shown(LIKINGS), NEGATED))],
    "intensified": [_filled(FRAMES, "{w} {X} and {s} {Y}", "{s} {Y} and {w} {X}"),
                    [join.replace("{own}", clause) for clause in STRONG_PLAIN for join in
                     ("{weak} and {own}", "{own} and {weak}", "{weak}, {own}", "{own}, {weak}")]],
}
OUTVOTED = _other(PLAIN + STRONG_PLAIN + NEGATED)             # what {other} stands for
WEAKER = _other(_shown(_filled(FRAMES, "{w} {Y}")))       # what {weak} stands for
NEUTRAL = ["My {P} told me about the {T}.", "We went on {D}.", "It was raining on {D}.", "My {P} paid for both of us.",
           "I had never heard of the {T} before.", "We did not know what to expect.", "It was not on our list.",
           "It was very late, but we stayed.", "My {P} came too, although it was {D}.", "It took about two hours.",
           "Nobody else was there on {D}.", "I wrote this on {D}.", "We didn't go alone, my {P} came with us.",
           "There was a long line, yet we did not have to wait."]
SLOTS = {"own": "YZMV", "other": "XNOv"}   # opinion words by polarity; {V} and {v} are verbs
DECIDING, UNDER_NOT = "YZVNOv", "NOM"


@dataclass(frozen=True)
class Review:
    """A review, its label ("positive" or "negative"), and what decides it, one of `REVIEW_KINDS`."""
    text: str
    label: str
    kind: str


def combination_held_out(word: str, pattern: str) -> bool:
    """True if training never showed this opinion word in this pattern."""
    return is_held_out("review", word, pattern)


# ---------------------------------------------------------------- making them

def _opposite(label: str) -> str:
    return LABELS[1 - LABELS.index(label)]


def _adjectives(kind: str, slot: str, label: str, new: bool) -> list[str]:
    """The words of this polarity that training showed in such a slot of this kind of review; `new`: did not show."""
    if new:
        return HELD_OUT_WORDS[kind][label]
    constructions = {kind, "negated"} if slot in UNDER_NOT else {kind}
    hidden = {word for c in constructions - {"plain"} for word in HELD_OUT_WORDS[c][label]}
    return [word for word in WORDS[label] if word not in hidden]


def _opinions(rng: random.Random, kind: str, pattern: str, label: str, new: bool) -> dict[str, str]:
    """A word for each opinion slot of the pattern, all different."""
    drawn = {}
    for slot in sorted(set(re.findall(r"{(\w)}", pattern)) & set("".join(SLOTS.values()))):
        polarity = label if slot in SLOTS["own"] else _opposite(label)
        words = VERBS[polarity] if slot in "Vv" else _adjectives(kind, slot, polarity, new)
        word = rng.choice([word for word in words if word not in drawn.values()])
        drawn[slot] = BASE_FORMS[word] if slot == "v" else word
    return drawn


def _scene(rng: random.Random) -> dict[str, str]:
    """A thing under review and two of its aspects."""
    things = rng.choice(list(SUBJECTS))
    return {"T": rng.choice(things.split())} | dict(zip("AB", rng.sample(SUBJECTS[things].split(), 2)))


def _sentence(rng: random.Random, pattern: str, slots: dict[str, str]) -> str:
    """The pattern with its slots filled; people, days and intensities are drawn."""
    slots = slots | dict(P=rng.choice(PEOPLE), D=rng.choice(DAYS), s=rng.choice(STRONG), w=rng.choice(WEAK))
    text = re.sub(r"{(\w)}", lambda match: slots[match[1]], pattern)
    return re.sub(r"(^|[.!] )(\w)", lambda match: match[1] + match[2].upper(), with_article(text))


def _among_neutral(rng: random.Random, sentence: str, scene: dict[str, str]) -> str:
    """The sentence among none, one or two that say nothing about quality."""
    patterns = rng.sample(NEUTRAL, rng.choices([0, 1, 2], [0.35, 0.4, 0.25])[0])
    parts = [_sentence(rng, pattern, scene) for pattern in patterns]
    parts.insert(rng.randint(0, len(parts)), sentence)
    return " ".join(parts)


def _draw(rng: random.Random, kind: str, novelty: str | None) -> Review:
    """One review; novelty None: as in training. Drawn again, with the same label, until its combinations are right."""
    label = rng.choice(LABELS)
    while True:
        pattern = rng.choice(rng.choice(PATTERN_GROUPS[kind]))
        if pattern_held_out(pattern) != (novelty == "patterns"):
            continue
        whole = pattern.replace("{other}", rng.choice(OUTVOTED)).replace("{weak}", rng.choice(WEAKER))
        drawn = _opinions(rng, kind, whole, label, novelty == "words")
        held = {slot: combination_held_out(word, pattern) for slot, word in drawn.items()}
        if novelty is None and any(held.values()):
            continue
        if novelty == "combinations" and not any(held[slot] for slot in drawn if slot in DECIDING):
            continue
        if novelty == "words" and not set(drawn) - set("Vv"):
            continue
        scene = _scene(rng)
        end = "!" if whole.startswith("what") or rng.random() < 0.1 else "."
        return Review(_among_neutral(rng, _sentence(rng, whole + end, scene | drawn), scene), label, kind)


def training_review(rng: random.Random) -> Review:
    """One review of the kind and in the words that the shipped classifier learned from."""
    return _draw(rng, rng.choices(REVIEW_KINDS, [0.2, 0.3, 0.3, 0.2])[0], None)


# ---------------------------------------------------------------- what lessons and measurements use

def _require(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        raise CourseError(f"{what} must be one of {', '.join(known)}, or None for all of them, not {value!r}")


def reviews(n: int, seed: int = 0, *, held_out: bool = True, kind: str | None = None,
            novelty: str | None = None) -> list[Review]:
    """`n` reviews. kind: one of `REVIEW_KINDS`; None mixes them in equal shares.

    held_out: reviews that training never showed, for one of the reasons in `NOVELTIES` (`novelty` None mixes them);
    False: reviews as in training. Raises CourseError for an unknown kind or novelty, or plain reviews of held-out
    words, which training did show.
    """
    _require("kind", kind, REVIEW_KINDS)
    _require("novelty", novelty, NOVELTIES)
    if kind == "plain" and novelty == "words":
        raise CourseError("no opinion word is held out in plain reviews: choose the novelty 'patterns' or "
                          "'combinations', or another kind")
    rng, found = random.Random(f"reviews {seed}"), []
    for i in range(n):
        chosen = kind or REVIEW_KINDS[i % len(REVIEW_KINDS)] if novelty != "words" else kind or REVIEW_KINDS[1 + i % 3]
        reasons = NOVELTIES[:2] if chosen == "plain" else NOVELTIES
        found.append(_draw(rng, chosen, (novelty or rng.choice(reasons)) if held_out else None))
    rng.shuffle(found)
    return found


PAIRS = {  # the first has the label of {Y}, the second that of {X} or the opposite of {Y}
    "negated": [("The {A} was {s} {Y}.", "The {A} was not {Y}."), ("The {T} was {s} {Y}.", "The {T} was never {Y}.")],
    "contrast": [("The {T} was {X}, but {Y}.", "The {T} was {Y}, but {X}."),
                 ("The {A} was {Y}, although the {B} was {X}.", "Although the {A} was {Y}, the {B} was {X}."),
                 ("The {A} was {X}, but the {B} was {Y}.", "The {A} was {Y}, but the {B} was {X}.")],
    "intensified": [("The {A} was {w} {X} and the {B} was {s} {Y}.", "The {A} was {s} {X} and the {B} was {w} {Y}."),
                    ("The {T} was {s} {Y} and {w} {X}.", "The {T} was {w} {Y} and {s} {X}.")],
}


def minimal_pairs(n: int, seed: int = 0, *, kind: str = "negated", held_out: bool = True,
                  same_length: bool = True) -> list[tuple[Review, Review]]:
    """`n` pairs of reviews that differ as little as their opposite labels allow.

    negated: with and without "not" ("never"); `same_length` puts an intensifying word in its place, so that both have
    the same number of tokens. contrast, intensified: the same words in another order, or the intensities swapped.
    held_out: opinion words that training never showed in such sentences. Raises CourseError for a kind without pairs.
    """
    if kind not in PAIRS:
        raise CourseError(f"minimal pairs exist for {', '.join(PAIRS)}, not for {kind!r}")
    rng, found = random.Random(f"pairs {seed}"), []
    for _ in range(n):
        first, second = rng.choice(PAIRS[kind])
        label, state = rng.choice(LABELS), rng.getrandbits(64)
        slots = _scene(rng) | _opinions(rng, kind, second, label, held_out)
        if not same_length:
            first = first.replace("{s} {Y}.", "{Y}.")
        pair = [_sentence(random.Random(state), pattern, slots) for pattern in (first, second)]
        found.append((Review(pair[0], label, "plain" if kind == "negated" else kind),
                      Review(pair[1], _opposite(label), kind)))
    return found

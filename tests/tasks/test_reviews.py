"""Generated reviews: their labels follow from their words, and what is held out never stands in the training text."""
import random
import re
from collections import Counter

import pytest
from sentences import sentence

from utils.tasks import REVIEW_KINDS, LABELS, NOVELTIES, reviews as R
from utils.tasks.reviews import minimal_pairs, reviews, training_review

N = 20_000
POLARITY = {word: label for label in LABELS for word in R.WORDS[label]}
POLARITY |= {form: label for label in LABELS for verb in R.VERBS[label] for form in (verb, R.BASE_FORMS[verb])}
HELD_WORDS = {kind: {w for words in by_label.values() for w in words} for kind, by_label in R.HELD_OUT_WORDS.items()}
ADJECTIVES = {word for words in R.WORDS.values() for word in words}
NEGATIONS = {"not", "wasn", "didn", "never", "nothing", "anything", "hardly", "far", "nobody", "neither"}


@pytest.fixture(scope="module")
def training():
    rng = random.Random(11)
    return [training_review(rng) for _ in range(N)]


def tokens(text):
    return re.findall(r"[a-z]+", text.lower())


def opinion_sentence(review):
    """The review without its neutral sentences."""
    parts = re.split(r"(?<=[.!]) ", review.text)
    return " ".join(part for part in parts if set(tokens(part)) & set(POLARITY) or part.startswith("Still"))


def says(clause):
    """The label of a clause with opinions of one polarity, turned by an odd number of negations."""
    found = {POLARITY[word] for word in tokens(clause) if word in POLARITY}
    assert len(found) == 1, clause
    label = found.pop()
    turned = bool(NEGATIONS & set(tokens(clause)))
    return LABELS[1 - LABELS.index(label)] if turned else label


def deciding_part(review):
    """A second reading of the four rules, by words and punctuation alone."""
    text = opinion_sentence(review).rstrip(".!")
    if review.kind in ("plain", "negated"):
        return text
    if review.kind == "intensified":
        parts = re.split(r" and |, ", text)
        return next(part for part in parts if set(R.STRONG) & set(tokens(part)))
    lower = text[0].lower() + text[1:]
    for word in ("although", "even though", "while", "despite"):
        if lower.startswith(word):
            return lower.split(", ", 1)[1]
        if f", {word} " in lower:
            return lower.split(f", {word} ")[0]
    return re.split(r", but |, yet |\. Still, ", text)[-1]


@pytest.mark.parametrize("kind", REVIEW_KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_labels_follow_from_the_words(kind, held_out):
    for review in reviews(600, 3, kind=kind, held_out=held_out):
        assert says(deciding_part(review)) == review.label, review
        assert review.kind == kind


def test_neutral_sentences_say_nothing_but_use_the_words_that_decide_elsewhere(training):
    for pattern in R.NEUTRAL:
        assert not set(tokens(pattern)) & set(POLARITY)
    neutral = set(tokens(" ".join(R.NEUTRAL)))
    assert {"not", "never", "didn", "nobody", "but", "yet", "although", "very"} <= neutral
    with_not = [r for r in training if "not" in tokens(r.text) and r.kind == "plain"]
    assert len(with_not) > 200


def test_labels_and_kinds_are_balanced(training):
    for kind in REVIEW_KINDS:
        labels = Counter(r.label for r in training if r.kind == kind)
        assert sum(labels.values()) > 0.15 * N and abs(labels["positive"] / sum(labels.values()) - 0.5) < 0.03, kind
    found = reviews(400, 1)
    assert Counter(r.kind for r in found) == dict.fromkeys(REVIEW_KINDS, 100)


def test_no_single_word_gives_the_label_away(training):
    """None of the words that make negation, contrast or intensity goes with one label more than 60 times in 100."""
    for kind in REVIEW_KINDS[1:]:
        counts = {label: Counter(w for r in training if (r.kind, r.label) == (kind, label) for w in set(tokens(r.text)))
                  for label in LABELS}
        for word in R.STRONG + ["not", "but", "although", "and", "slightly"]:
            total = sum(c[word] for c in counts.values())
            assert total < 100 or 0.4 < counts["positive"][word] / total < 0.6, (kind, word)


# ---------------------------------------------------------------- held out

def choice(words):
    return "(?:" + "|".join(map(re.escape, words)) + ")"


ASPECTS = choice({w for aspects in R.SUBJECTS.values() for w in aspects.split()})
OPINION = choice([*ADJECTIVES, *POLARITY])
SLOTS = {"T": choice({w for things in R.SUBJECTS for w in things.split()}), "A": ASPECTS, "B": ASPECTS,
         "P": choice(R.PEOPLE), "s": choice(R.STRONG), "w": choice(R.WEAK)}
PATTERNS = {kind: {p for group in groups for p in group} for kind, groups in R.PATTERN_GROUPS.items()}


def regex(pattern):
    """What a whole opinion sentence of this pattern looks like, in small letters."""
    text = re.sub(r"(?<!{)\bI\b(?!})", "i", re.sub(r"\ba(?= {)", "an?", pattern))
    for clauses, slot in ((R.OUTVOTED, "{other}"), (R.WEAKER, "{weak}")):
        if slot in text:
            text = text.replace(slot, "(?:" + "|".join(regex(clause)[:-4] for clause in clauses) + ")")
    text = re.sub(r"{(\w)}", lambda slot: SLOTS.get(slot[1], OPINION), text)
    return text.replace(". still", r"\. still") + "[.!]"


def test_held_out_patterns_are_never_shown_and_all_others_are(training):
    rng = random.Random(0)
    for kind, patterns in PATTERNS.items():
        said = {opinion_sentence(r).lower() for r in training if r.kind == kind}
        held = sorted(filter(R.pattern_held_out, patterns))
        assert 0.05 < len(held) / len(patterns) < 0.3, kind
        short = [pattern for pattern in held if "{other}" not in pattern and "{weak}" not in pattern]
        for pattern in rng.sample(short, min(8, len(short))):
            assert not [s for s in said if re.fullmatch(regex(pattern), s)], pattern
        asked = {opinion_sentence(r).lower() for r in reviews(300, 8, kind=kind, novelty="patterns")}
        assert any(re.fullmatch(regex(pattern), s) for pattern in short for s in asked)   # the control: it is found
        shown = [pattern for pattern in patterns if not R.pattern_held_out(pattern) and "{weak}" not in pattern]
        if kind != "contrast":                         # so many that not each stands in the sample
            for pattern in rng.sample(sorted(shown), 10):
                assert any(re.fullmatch(regex(pattern), s) for s in said), pattern


def test_every_part_of_a_held_out_pattern_is_shown(training):
    text = "\n".join(r.text.lower() for r in training)
    every = [pattern for patterns in PATTERNS.values() for pattern in patterns]
    held = "\n".join(re.sub(r"{\w+}", "", pattern) for pattern in every if R.pattern_held_out(pattern))
    assert set(tokens(held)) <= set(tokens(text))
    shown = [pattern for pattern in every if not R.pattern_held_out(pattern)]
    for part in R.FRAMES + R.JOINS:
        edge = max(re.split(r"{(?:p|own|other)}", part), key=len)         # the longest piece of it
        assert sum(edge in pattern for pattern in shown) >= 3, part
    for form in sum(R.NEGATIONS.values(), ["far from", "anything but", "nothing about"]):
        assert any(form in pattern for pattern in R.NEGATED), form


def negated_adjectives(review):
    """Adjectives in clauses with a negation, wherever in the review they stand."""
    clauses = re.split(r", | and |[.!]", review.text.lower())
    return {w for clause in clauses if NEGATIONS & set(tokens(clause)) for w in tokens(clause) if w in ADJECTIVES}


def test_held_out_words_are_shown_in_all_other_constructions(training):
    assert set(HELD_WORDS) == set(REVIEW_KINDS[1:]) and len(set.union(*HELD_WORDS.values())) == 24
    for kind, words in HELD_WORDS.items():
        shown = Counter((r.kind, w) for r in training for w in tokens(r.text) if w in words)
        others = [k for k in REVIEW_KINDS if k != kind]
        assert {k for k, _ in shown} == set(others) and min(shown[k, w] for k in others for w in words) > 20, kind
        for review in reviews(100, 2, kind=kind, novelty="words"):
            assert set(tokens(review.text)) & ADJECTIVES <= words and set(tokens(review.text)) & words
    assert not {w for r in training for w in negated_adjectives(r)} & HELD_WORDS["negated"]
    assert len({w for r in training for w in negated_adjectives(r)}) == len(ADJECTIVES) - 8


def test_every_word_is_shown(training):
    words = {w for r in training for w in tokens(r.text)}
    assert set(POLARITY) | set(R.STRONG) | {w for weak in R.WEAK for w in weak.split()} <= words


def test_held_out_combinations_are_never_shown(training):
    """Patterns with one adjective slot and nothing else can be recognised from the text alone."""
    pattern = next(p for p in R.NEGATED if p.endswith(" {N}"))
    one = regex(pattern).replace(OPINION, "([a-z]+)")
    shown = {m[1] for r in training if (m := re.fullmatch(one, opinion_sentence(r).lower()))}
    held = {w for w in ADJECTIVES if R.combination_held_out(w, pattern)}
    assert len(held) >= 4 and not held & shown
    assert len(shown) > 20 and shown <= ADJECTIVES - held - HELD_WORDS["negated"]
    asked = {m[1] for r in reviews(4000, 5, kind="negated", novelty="combinations")
             if (m := re.fullmatch(one, opinion_sentence(r).lower()))}
    assert asked and asked <= held - HELD_WORDS["negated"]


def test_a_held_out_review_is_never_one_of_training(training):
    seen = {opinion_sentence(r) for r in training}
    held = [opinion_sentence(r) for r in reviews(2000, 4)]
    assert not seen & set(held)
    again = [opinion_sentence(r) for r in reviews(2000, 4, held_out=False)]
    assert len(seen & set(again)) > 100          # the control: what is not held out does come again


# ---------------------------------------------------------------- asking for them

def test_reviews_read_well(training):
    text = "\n".join(r.text for r in training[:4000])
    assert "{" not in text and "  " not in text and not re.search(r"\b(a [aeiou]|an [^aeiou])\w", text.lower())
    assert all(r.text[0].isupper() and r.text[-1] in ".!" for r in training)
    assert max(len(tokens(r.text)) for r in training) < 50


def test_the_same_seed_gives_the_same_reviews():
    assert reviews(50, 1) == reviews(50, 1) != reviews(50, 2)
    assert minimal_pairs(9, 1) == minimal_pairs(9, 1) != minimal_pairs(9, 2)


@pytest.mark.parametrize("kind", R.PAIRS)
def test_minimal_pairs_differ_little_and_have_opposite_labels(kind):
    for first, second in minimal_pairs(200, 3, kind=kind):
        assert first.label != second.label and second.kind == kind
        for review in (first, second):
            assert says(deciding_part(review)) == review.label, review
            assert {w for w in tokens(review.text) if w in POLARITY} <= HELD_WORDS[kind]
        a, b = tokens(first.text), tokens(second.text)
        assert len(a) == len(b)
        assert sum(x != y for x, y in zip(a, b)) == 1 if kind == "negated" else Counter(a) == Counter(b)
    shorter = minimal_pairs(50, 3, same_length=False)
    assert all(len(tokens(b.text)) == len(tokens(a.text)) + 1 for a, b in shorter)


def test_bad_requests():
    sentence(lambda: reviews(3, kind="ironic"), "kind must be one of plain, negated, contrast,", "not 'ironic'")
    sentence(lambda: reviews(3, novelty="word"), "novelty must be one of patterns, combinations, words", "not 'word'")
    sentence(lambda: reviews(3, kind="plain", novelty="words"), "no opinion word is held out in plain reviews")
    sentence(lambda: minimal_pairs(3, kind="plain"), "pairs exist for negated, contrast, intensified, not for 'plain'")
    assert all(reviews(12, novelty=novelty) for novelty in NOVELTIES)

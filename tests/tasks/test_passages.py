"""Contexts: answers stand where they are said to, need the question, and training never saw what is held out."""
import random
import re

import pytest

from utils.tasks import passage_patterns as P, passages as own
from utils.tasks.passages import QUESTION_KINDS, SPLITS, passage, possible, questions, records
from utils.tasks.prompts import held_out


def passages(split, n=1500):
    rng = random.Random(7)
    return [passage(rng, split) for _ in range(n)]


def words(text):
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("split", SPLITS)
def test_answers_stand_where_they_are_said_to(split):
    found = records(600, split=split)
    assert len(found) == 600 and {r.kind for r in found} == set(QUESTION_KINDS)
    for r in found:
        assert r.context[slice(*r.span)] == r.answer and r.answer.strip() == r.answer != ""
        assert r.question[0].isupper() and not re.search(r"[{}]|  | [,.?]", r.context + r.question)


def test_all_facts_of_a_context_are_told_by_its_text():
    for p in passages("training", 300):
        for fact in p.facts:
            assert p.text[slice(*fact.span)].lower() == fact.value.lower()
            assert fact.named is None or p.text[slice(*fact.named)] == fact.subject
        assert len({(f.subject, f.relation) for f in p.facts}) == len(p.facts)


def test_the_same_seed_gives_the_same_records():
    assert records(20, seed=3) == records(20, seed=3) != records(20, seed=4)
    with pytest.raises(ValueError, match="split 'test' is unknown; choose one of: training, held_out_facts"):
        records(5, split="test")


def test_questions_on_one_context_are_different_and_mostly_have_different_answers():
    found = records(1000, per_context=2)
    pairs = list(zip(found[::2], found[1::2]))
    assert all(a.context == b.context and a.question != b.question for a, b in pairs)
    assert sum(a.answer != b.answer for a, b in pairs) > 0.85 * len(pairs)


def test_most_questions_have_rivals_of_the_same_sort():
    """Else "the only city" would do; a random value of the right sort must be wrong more often than right."""
    found = [r for split in SPLITS for r in records(500, split=split)]
    for r in found:
        assert r.answer.lower() not in {rival.lower() for rival in r.rivals}
        assert all(rival.lower() in r.context.lower() for rival in r.rivals)
    assert sum(bool(r.rivals) for r in found) > 0.85 * len(found)
    assert sum(1 / (1 + len(r.rivals)) for r in found) < 0.5 * len(found)


def test_questions_the_other_way_round_have_one_answer():
    for p in passages("training", 400):
        for fact, kind in possible(p):
            if kind in P.REVERSED:
                same = [f for f in p.facts if f.relation == fact.relation and f.value == fact.value]
                assert same == [fact] and fact.named
            else:
                assert [f.value for f in p.facts if (f.subject, f.relation) == (fact.subject, kind)] == [fact.value]


# ---------------------------------------------------------------- what is held out

def test_training_never_shows_a_held_out_fact_and_held_out_contexts_show_no_other():
    for split in SPLITS:
        shown = [held_out("context", f.subject, f.relation, f.value) for p in passages(split, 400) for f in p.facts]
        assert not any(shown) if split == "training" else all(shown)


def forms(fact):
    """The held-out sentence of a fact, with every way to name its subject."""
    sort = P.RELATIONS[fact.relation][0]
    subjects = [own._pronouns(fact.subject, sort), dict.fromkeys("so", own.with_article(fact.subject, sort))]
    return [own.fill(P.SENTENCES[fact.relation][-1], {"a": fact.value, **s})[0].lower() for s in subjects]


def test_held_out_sentences_are_never_shown_in_training():
    tells = lambda split: [any(form in p.text.lower() for form in forms(f)) for p in passages(split) for f in p.facts]
    assert not any(tells("training")) and not any(tells("held_out_facts"))
    assert sum(tells("held_out_sentences")) / len(tells("held_out_sentences")) > 0.5  # others stand in doubles


def test_held_out_questions_are_never_asked_in_training():
    rng = random.Random(0)
    asked = {(r.kind, r.question) for p in passages("training", 600) for r in questions(p, rng, 4)}
    pattern = lambda kind: re.compile(re.sub(r"\\{\w\\}", ".+", re.escape(P.QUESTIONS[kind][-1])), re.IGNORECASE)
    assert not [q for kind, q in asked if pattern(kind).fullmatch(q)]
    new = records(200, split="held_out_questions")
    assert all(pattern(r.kind).fullmatch(r.question) for r in new)


def test_every_word_that_is_held_out_was_seen_in_training():
    rng, seen = random.Random(0), set()
    for p in passages("training", 6000):
        seen |= words(p.text).union(*(words(r.question) for r in questions(p, rng, 3)))
    for split in SPLITS[1:]:
        new = set().union(*(words(r.context + " " + r.question) for r in records(400, split=split))) - seen
        assert all(word.isdigit() for word in new), new  # a year may be missing from a sample
    eiffel = set().union(*(words(r.context + " " + r.question) for r in own.eiffel_tower()))
    assert eiffel - seen <= {"1889", "1886"}


# ---------------------------------------------------------------- the Eiffel Tower, and the control

def test_the_eiffel_tower():
    found = own.eiffel_tower()
    assert {(r.question, r.answer) for r in found} >= {
        ("Who is the Eiffel Tower named after?", "Gustave Eiffel"), ("Who built the Eiffel Tower?", "Gustave Eiffel"),
        ("Where is the Eiffel Tower?", "Paris"), ("When was the Eiffel Tower finished?", "1889"),
        ("Where is the Statue of Liberty?", "New York")}
    assert len({r.context for r in found}) == 1 and all(r.context[slice(*r.span)] == r.answer for r in found)
    by_kind = {r.kind: r.span for r in found if "Eiffel" in r.question}
    assert by_kind["builder"] != by_kind["namesake"]  # each where the context says so
    names = {name for p in passages("training", 3000) for f in p.facts for name in (f.subject, f.value)}
    assert not names & set(P.REAL) and len(names) > 1000


def test_without_its_question_a_record_keeps_everything_else():
    record = records(1)[0]
    bare = record.without_question()
    assert bare.question == "?" and record.question != "?"
    assert (bare.context, bare.answer, bare.span) == (record.context, record.answer, record.span)


def test_made_up_names_are_new():
    lists = P.ADJECTIVES, P.SURNAMES, P.VIRTUES, P.BUILDINGS, P.OBJECTS, P.MALE, P.FEMALE
    known = {word for names in lists for word in names}
    subjects = lambda share: {w for p in [passage(random.Random(i), made_up=share) for i in range(200)]
                              for f in p.facts for w in f.subject.split()} - known - {"of"}
    assert not subjects(0.0) and len(subjects(1.0)) > 100


# ---------------------------------------------------------------- exercises for training

def test_in_a_plain_context_only_the_name_tells_the_answers_apart():
    rng = random.Random(0)
    for blocks in (2, 3):
        for _ in range(100):
            p = passage(rng, blocks=blocks, plain=True)
            assert len(p.facts) == len({f.subject for f in p.facts}) == blocks
            assert len({f.relation for f in p.facts}) == 1 and all(f.named for f in p.facts)


def test_the_exercise_of_finding_a_name():
    rng = random.Random(0)
    for _ in range(100):
        p = passage(rng)
        record = own.find(p, rng)
        assert p.text[slice(*record.span)] == record.answer and record.answer in record.question
        assert record.span[0] == p.text.index(record.answer) and record.kind not in QUESTION_KINDS

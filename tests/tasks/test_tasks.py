"""Prompts and facts: written out by hand, counted, and checked for what the lessons rely on."""
import re

import pytest
import torch
from small_models import SHIPPED

from utils import tasks
from utils.models import differing_positions, encode, load_model
from utils.tasks import templates as T


@pytest.fixture(scope="module")
def model():
    return load_model(str(SHIPPED))


# ---------------------------------------------------------------- indirect objects

def test_the_published_prompt():
    pair = tasks.ioi_pair()
    assert pair.clean == "After John and Mary went to the store, Mary gave a bottle of milk to"
    assert pair.corrupted == "After John and Mary went to the store, John gave a bottle of milk to"
    assert (pair.answer, pair.wrong, pair.order) == (" John", " Mary", "ABBA")


def test_orders_and_slots():
    slots = dict(opening="{A} and {B} met at the {P}.", clause="{S} gave {D} {colour} {O} to", place="zoo", thing="apple",
                 determiner="a", colour="old")
    abba, baba = (tasks.ioi_pair("Tom", "Anna", order, **slots) for order in ("ABBA", "BABA"))
    assert abba.clean == "Tom and Anna met at the zoo. Anna gave an old apple to"
    assert baba.clean == "Anna and Tom met at the zoo. Anna gave an old apple to"
    assert baba.corrupted == "Anna and Tom met at the zoo. Tom gave an old apple to"
    assert abba.answer == baba.answer == " Tom"


def test_enough_names_and_templates():
    assert len(set(T.NAMES)) == len(T.NAMES) >= 40 and T.FEMALE <= set(T.NAMES)
    assert len(set(T.IOI_OPENINGS)) == len(T.IOI_OPENINGS) >= 30   # fifteen after Wang et al., fifteen others
    assert not set(T.IOI_OPENINGS) & set(T.HELD_OUT_IOI_OPENINGS) and len(T.HELD_OUT_IOI_OPENINGS) >= 3
    for opening in T.IOI_OPENINGS + T.HELD_OUT_IOI_OPENINGS:
        assert opening.count("{A}") == opening.count("{B}") == 1 and opening.index("{A}") < opening.index("{B}")
    assert all(clause.count("{S}") == 1 for clause in T.IOI_CLAUSES)


def names_in(text):
    return [word for word in re.findall(r"\w+", text) if word in T.NAMES]


@pytest.mark.parametrize("split", tasks.SPLITS)
def test_dataset(split):
    pairs = tasks.ioi_dataset(300, seed=3, split=split)
    assert len(pairs) == 300 and {p.order for p in pairs} == {"ABBA", "BABA"}
    held_openings = 0
    for pair in pairs:
        first, second, giver = names_in(pair.clean)
        io, subject = pair.answer.strip(), pair.wrong.strip()
        assert giver == subject and {first, second} == {io, subject} and io != subject
        assert (first == io) == (pair.order == "ABBA")
        assert names_in(pair.corrupted) == [first, second, io]
        assert tasks.name_pair_held_out(io, subject) == (split == "held_out_pairs")
        assert not re.search(r"[{}]| a [aeiou]", pair.clean)
        held_openings += any(re.match(re.sub(r"\\{\w+\\}", ".+", re.escape(o)), pair.clean) for o in T.HELD_OUT_IOI_OPENINGS)
    assert held_openings == (300 if split == "held_out_templates" else 0)


def test_dataset_is_reproducible_and_takes_an_order_and_fixed_slots():
    assert tasks.ioi_dataset(20, seed=1) == tasks.ioi_dataset(20, seed=1) != tasks.ioi_dataset(20, seed=2)
    fixed = tasks.ioi_dataset(20, order="BABA", place="zoo", opening="{A} and {B} met at the {P}.")
    assert all(p.order == "BABA" and "met at the zoo." in p.clean for p in fixed)


def test_pairs_have_equal_length_and_differ_only_in_the_giver(model):
    pairs = tasks.ioi_dataset(100, seed=5, split="held_out_templates")
    clean, corrupted = (encode(model, [getattr(p, kind) for p in pairs]) for kind in ("clean", "corrupted"))
    assert torch.equal(clean.mask, corrupted.mask)
    differing_positions(clean, corrupted)
    assert ((clean.tokens != corrupted.tokens).sum(1) == 1).all()


def test_fixed_slots_give_prompts_of_one_length(model):
    fixed = dict(opening=T.IOI_OPENINGS[7], clause="{S} gave {D} {O} to", determiner="a", place="store", thing="drink")
    assert encode(model, [p.clean for p in tasks.ioi_dataset(50, seed=4, **fixed)]).equal_length


def test_three_names():
    prompts = tasks.three_name_dataset(200, seed=2)
    for p in prompts:
        names = names_in(p.prompt)
        assert len(names) == 5 and len(set(names[:3])) == 3
        assert set(names[3:]) == {w.strip() for w in p.wrong} == set(names[:3]) - {p.answer.strip()}
    assert prompts == tasks.three_name_dataset(200, seed=2)
    where = [names_in(p.prompt).index(p.answer.strip()) for p in prompts]
    assert min(where.count(i) for i in range(3)) > 40   # the answer is not always the same of the three


# ---------------------------------------------------------------- facts

@pytest.mark.parametrize("name, subject, rows", [("countries", "country", 100), ("landmarks", "landmark", 60),
                                                 ("people", "person", 50), ("invented_landmarks", "landmark", 60),
                                                 ("invented_people", "person", 60), ("verbs", "verb", 50)])
def test_tables_have_unique_subjects_and_no_gaps(name, subject, rows):
    table = tasks.table(name)
    assert len(table) >= rows and len({row[subject] for row in table}) == len(table)
    assert all(value and value == value.strip() for row in table for value in row.values())


def test_some_facts_everyone_knows():
    capital = {row["country"]: row["capital"] for row in tasks.table("countries")}
    assert (capital["France"], capital["Poland"], capital["Japan"], capital["Kenya"]) == ("Paris", "Warsaw", "Tokyo", "Nairobi")
    assert {row["landmark"]: row["city"] for row in tasks.table("landmarks")}["Space Needle"] == "Seattle"
    assert {row["person"]: row["known_for"] for row in tasks.table("people")}["Miles Davis"] == "trumpet"
    assert {row["verb"]: row["past"] for row in tasks.table("verbs")}["walk"] == "walked"


def test_facts_of_invented_landmarks_need_every_word():
    """No single word of an invented subject gives its city away: every word stands beside several cities."""
    cities = {}
    for row in tasks.table("invented_landmarks"):
        for word in row["landmark"].split():
            cities.setdefault(word, set()).add(row["city"])
    assert all(len(places) > 1 for places in cities.values())


def test_facts_hold_their_subject_and_answer():
    facts = [*tasks.landmark_facts(), *tasks.landmark_facts(invented=True), *tasks.people_facts(),
             *tasks.people_facts(invented=True), *tasks.country_facts("capital"), *tasks.landmark_facts(whole_patterns=True)]
    for fact in facts:
        assert fact.subject in fact.prompt and fact.answer.startswith(" ") and "{" not in fact.prompt
        assert not fact.prompt.endswith(" ") and fact.answer.strip() not in fact.prompt.split()
    first = tasks.landmark_facts()[0]
    assert (first.prompt, first.answer) == ("The Space Needle is located in the city of", " Seattle")
    assert tasks.people_facts()[0].prompt == "LeBron James plays the sport of"


def test_held_out_is_a_fixed_share():
    keys = [("test", i, j) for i in range(100) for j in range(40)]
    assert 0.13 < sum(tasks.held_out(*k) for k in keys) / len(keys) < 0.17
    assert 0.47 < sum(tasks.held_out(*k, share=0.5) for k in keys) / len(keys) < 0.53
    assert [tasks.held_out(*k) for k in keys] == [tasks.held_out(*k) for k in keys]
    assert tasks.name_pair_held_out("John", "Mary") == tasks.name_pair_held_out("Mary", "John")


def test_only_some_facts_are_held_out_and_whole_patterns_all():
    for facts in (tasks.landmark_facts(), tasks.people_facts(invented=True), tasks.country_facts("language")):
        assert 0.05 < sum(f.held_out for f in facts) / len(facts) < 0.2
    assert all(f.held_out for f in tasks.landmark_facts(whole_patterns=True) + tasks.people_facts(whole_patterns=True))


# ---------------------------------------------------------------- questions

def test_the_question_of_the_source():
    fact = tasks.question_prompt("capital", "Poland", "France")
    assert (fact.prompt, fact.answer) == (tasks.FRANCE_POLAND, " Warsaw")
    assert tasks.question_prompt("past", "walk", "talk", question=1).prompt == \
        "Q: What is the past of talk?\nA: talked\nQ: What is the past of walk?\nA:"
    assert tasks.question_prompt("uppercase", "red", "blue").answer == " Red"


@pytest.mark.parametrize("relation", T.QUESTIONS)
def test_question_relations(relation):
    pairs, facts = tasks.question_pairs(relation), tasks.question_facts(relation, seed=1)
    assert len(facts) == len(pairs) == len(dict(pairs))
    for fact, (subject, answer) in zip(facts, pairs):
        example, question = fact.prompt.split("\nQ: ")
        assert fact.answer == " " + answer and subject in question and question.endswith("?\nA:")
        assert subject not in re.findall(r"Q: (.*)\n", example)[0].rstrip("?").split(" of ")[-1].split() or " " in subject
    assert facts == tasks.question_facts(relation, seed=1)


def test_capital_questions_leave_the_example_out():
    facts = tasks.capital_questions()
    assert len(facts) == len(tasks.table("countries")) - 1 and "France" not in {f.subject for f in facts}
    assert all(f.prompt.startswith("Q: What is the capital of France?\nA: Paris\nQ: ") for f in facts)


# ---------------------------------------------------------------- repeated tokens

def test_repeated_tokens():
    tokens = tasks.generate_repeated_tokens(50, 40, 20, bos=3, seed=1)
    assert tokens.shape == (50, 81) and (tokens[:, 0] == 3).all()
    assert torch.equal(tokens[:, 1:41], tokens[:, 41:])
    assert set(tokens[:, 1:].unique().tolist()) == set(range(20)) - {3}
    counts = tokens[:, 1:41].flatten().bincount(minlength=20)
    assert counts[[i for i in range(20) if i != 3]].min() > 60     # 2000 draws over 19 tokens: about 105 each
    assert torch.equal(tokens, tasks.generate_repeated_tokens(50, 40, 20, bos=3, seed=1))
    assert not torch.equal(tokens, tasks.generate_repeated_tokens(50, 40, 20, bos=3, seed=2))


# ---------------------------------------------------------------- mistakes

@pytest.mark.parametrize("call, message", [
    (lambda: tasks.ioi_pair("Tom", "Tom"), "are both 'Tom'; the task needs two different names"),
    (lambda: tasks.ioi_pair(order="ABAB"), "order must be 'ABBA' or 'BABA', not 'ABAB'"),
    (lambda: tasks.ioi_dataset(1, split="test"), "split 'test' is unknown; choose one of: training, held_out_pairs, held_out_templates"),
    (lambda: tasks.ioi_dataset(1, order="ABC"), "order must be 'ABBA' or 'BABA'"),
    (lambda: tasks.table("rivers"), "no table 'rivers'; there are: countries, landmarks"),
    (lambda: tasks.country_facts("river"), "relation 'river' is unknown; choose one of: capital, language, continent"),
    (lambda: tasks.question_pairs("river"), "relation 'river' is unknown; choose one of: capital"),
    (lambda: tasks.question_prompt("capital", "Atlantis", "France"), "'Atlantis' is not among the subjects of 'capital', e.g. France"),
    (lambda: tasks.question_prompt("capital", "France", "Paris"), "'Paris' is not among the subjects")])
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

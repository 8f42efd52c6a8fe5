"""What the training text contains, and above all what it must not contain."""
import random
import re
from itertools import combinations

import numpy as np
import pytest
from small_models import SHIPPED
from tokenizers import Tokenizer

from utils import tasks
from utils.tasks import templates as T
from utils.training import corpus

N = 20_000


@pytest.fixture(scope="module")
def documents():
    rng = random.Random(11)
    return [corpus.document(rng) for _ in range(N)]


@pytest.fixture(scope="module")
def text(documents):
    return "\n\n".join(documents)


STATEMENTS = {**{relation: lambda r=relation: tasks.country_facts(r) for relation in T.COUNTRY_PATTERNS},
              "landmarks": tasks.landmark_facts, "invented landmarks": lambda: tasks.landmark_facts(invented=True),
              "people": tasks.people_facts, "invented people": lambda: tasks.people_facts(invented=True)}


@pytest.mark.parametrize("kind", STATEMENTS)
def test_held_out_statements_are_never_produced(text, kind):
    """Not even inside a longer sentence, where the first letter may be small; what is not held out does appear."""
    lower, facts = text.lower(), STATEMENTS[kind]()
    said = lambda fact: (fact.prompt + fact.answer).lower() in lower
    held = [fact for fact in facts if fact.held_out]
    assert len(held) > 20 and not [fact.prompt for fact in held if said(fact)]
    shown = [fact for fact in facts if not fact.held_out]
    assert sum(map(said, shown)) > 0.3 * len(shown)


def test_whole_patterns_are_never_produced(text):
    patterns = T.HELD_OUT_LANDMARK_PATTERNS + [p for ps in T.HELD_OUT_PEOPLE_PATTERNS.values() for p in ps]
    facts = tasks.landmark_facts(whole_patterns=True) + tasks.people_facts(whole_patterns=True)
    assert len(patterns) >= 4 and facts
    assert not [fact.prompt for fact in facts if fact.prompt in text]
    for pattern in patterns:
        before, after = pattern.split("{s}")
        assert not re.search(re.escape(before) + r"[\w' .-]{3,40}" + re.escape(after), text), pattern


@pytest.mark.parametrize("relation", T.QUESTIONS)
def test_held_out_questions_are_never_asked(text, relation):
    asked = set(re.findall(r"Q: (.*)\n", text))
    held, shown = set(), set()
    for index, form in enumerate(T.QUESTIONS[relation]):
        for subject, _ in tasks.question_pairs(relation):
            (held if tasks.held_out("question", relation, subject, index) else shown).add(form.replace("{s}", subject))
    assert held and not held & asked and len(shown & asked) > 0.5 * len(shown)


def test_held_out_name_pairs_never_meet_in_a_prompt_with_two_names():
    """Prompts with three names may hold such a pair: they are another task, and `ioi_dataset` says so."""
    rng = random.Random(12)
    held = {frozenset(p) for p in combinations(T.NAMES, 2) if tasks.name_pair_held_out(*p)}
    seen = set()
    for _ in range(N):
        first, second, *rest = [word for word in re.findall(r"\w+", corpus.ioi_document(rng)) if word in T.NAMES]
        if len(set([first, second, *rest])) == 2:
            seen.add(frozenset((first, second)))
    assert len(held) > 500 and not held & seen
    assert len(seen) > 0.8 * (len(T.NAMES) * (len(T.NAMES) - 1) / 2 - len(held))


def test_held_out_openings_are_never_produced(text):
    def count(opening):
        return len(re.findall(re.sub(r"\\{\w+\\}", r"\\w+", re.escape(opening)), text))
    assert [count(opening) for opening in T.HELD_OUT_IOI_OPENINGS] == [0] * len(T.HELD_OUT_IOI_OPENINGS)
    assert count(T.IOI_OPENINGS[7]) > 20


def test_every_word_of_a_held_out_template_occurs_in_the_training_text(text):
    words = set(re.findall(r"[^\W\d_]+", text))
    held = [*T.HELD_OUT_IOI_OPENINGS, *T.HELD_OUT_LANDMARK_PATTERNS, *(p for ps in T.HELD_OUT_PEOPLE_PATTERNS.values() for p in ps)]
    needed = {word for p in held for word in re.findall(r"[^\W\d_]+", re.sub(r"\{\w+\}", "", p))}
    assert needed and not needed - words


def test_the_list_of_known_words_holds_the_training_text(text):
    known = set((SHIPPED / "words.txt").read_text(encoding="utf-8").split())
    assert not set(re.findall(r"[^\W\d_]+", text)) - known


def test_every_kind_of_document_appears_and_reads_well(documents, text):
    starts = {"fact": "The ", "question": "Q: ", "review": "Review: ", "list": "List: ", "like": "Like "}
    for start in starts.values():
        assert sum(d.startswith(start) for d in documents) > 50
    assert "{" not in text and "None" not in text and "  " not in text
    assert not re.search(r" a [aeiou]\w", text.replace("a one", "")), re.search(r".{20} a [aeiou]\w+", text)


def test_corpus_is_reproducible():
    one, two, other = ([corpus.document(rng) for _ in range(200)] for rng in map(random.Random, (1, 1, 2)))
    assert one == two != other


def test_ioi_documents_end_in_the_indirect_object():
    """Two names, one gives: the other receives. A giver who was not named before may give to either."""
    rng, outsiders, plain = random.Random(0), 0, 0
    for _ in range(500):
        names = [w for w in re.findall(r"\w+", corpus.ioi_document(rng)) if w in T.NAMES]
        if len(names) == 4:
            a, b, giver, receiver = names
            assert receiver in (a, b) and receiver != giver
            outsiders, plain = outsiders + (giver not in (a, b)), plain + (giver in (a, b))
        else:
            assert len(names) == 6 and set(names[:3]) == {*names[3:5], names[5]}
    assert outsiders > 10 and plain > 250


def test_crossed_subjects_differ_in_one_word():
    rows, rng = tasks.table("invented_landmarks"), random.Random(0)
    for _ in range(50):
        subject, *others = corpus.crossed(rng, rows, "landmark")
        for other in others:
            assert sum(a != b for a, b in zip(subject.split(), other.split())) == 1
            assert len(subject.split()) == len(other.split())


def test_token_rows():
    tokenizer = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    rows = corpus.token_rows(40, 64, tokenizer, random.Random(0))
    assert rows.shape == (40, 64) and rows.dtype == np.int64 and 0 <= rows.min() and rows.max() < 2560
    starts = (rows[:, 0] == corpus.END_OF_TEXT).mean()
    assert 0.5 < starts < 0.95 and ((rows[:, 1:] == corpus.END_OF_TEXT).sum(1) > 0).mean() > 0.9
    assert (rows == corpus.token_rows(40, 64, tokenizer, random.Random(0))).all()


def test_repeated_rows():
    rows = corpus.repeated_rows(200, 64, 500, random.Random(0))
    assert rows.shape == (200, 64) and rows.max() < 500

    def repeats(row):
        body = row[row != corpus.END_OF_TEXT]
        pairs = list(zip(body[:-1], body[1:]))
        return len(pairs) - len(set(pairs))
    assert np.mean([repeats(row) > 5 for row in rows]) > 0.6
    shuffled = np.random.default_rng(0).permuted(rows, axis=1)
    assert np.mean([repeats(row) > 5 for row in shuffled]) < 0.3

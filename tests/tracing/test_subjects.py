"""Guessing the subject of a prompt, and finding the tokens that cover it."""
import pytest
from words import Words

from utils import tasks
from utils.errors import CourseError
from utils.models import load_model
from utils.tracing import token_range
from utils.tracing.subjects import guess_subject


@pytest.mark.parametrize("prompt, subject", [
    ("The Space Needle is located in the city of", "The Space Needle"),
    ("Miles Davis plays the", "Miles Davis"),
    ("The capital of France is the city of", "France"),
    ("What is the native language of Danielle Darrieux? It is", "Danielle Darrieux"),
    ("Where is Big Ben? It is in", "Big Ben"),
    ("The Statue of Liberty stands in", "The Statue of Liberty"),
    ("Leonardo da Vinci painted the", "Leonardo da Vinci"),
    ("Germany's capital is", "Germany"), ("Émile Zola wrote", "Émile Zola"), ("In Rome, Caesar met", "Rome"),
    ("To visit Rome, go to", "Rome"),
    ("The song “yellow submarine” is by", "yellow submarine"), ('The word "dog" is a', "dog"),
    ("A Tale of Two Cities was written by", "A Tale of Two Cities"),
    ("The Coca-Cola company was founded in", "The Coca-Cola"), ("AT&T is a company in", "AT&T"),
    ("WHO is based in", "WHO"), ("AC/DC comes from", "AC/DC"), ("J.K. Rowling wrote", "J.K. Rowling"),
    ("George W. Bush was born in", "George W. Bush"), ("Who is Rome", "Rome")])
def test_guesses(prompt, subject):
    assert guess_subject(prompt) == subject


def test_guesses_hold_the_subject_of_most_facts_of_the_course():
    facts = tasks.landmark_facts() + tasks.people_facts()
    assert sum(fact.subject in guess_subject(fact.prompt) for fact in facts) > 0.8 * len(facts)


@pytest.mark.parametrize("prompt", ["the city is in", "What is the", "", "The"])
def test_no_guess(prompt):
    with pytest.raises(CourseError, match="no subject can be guessed in .* say it with subject="):
        guess_subject(prompt)


# ---------------------------------------------------------------- tokens

class Bytes:
    """Every byte is a token, so that a letter may be spread over several."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def test_tokens_cover_the_subject():
    tokenizer = load_model().tokenizer
    row = tokenizer.encode("The Space Needle is located in the city of", add_special_tokens=False)
    for subject in ("The Space Needle", "Space Needle", "Needle", " Needle", "Needle is", "city"):
        first, end = token_range(tokenizer, row, subject)
        assert tokenizer.decode(row[first:end]).strip() == subject.strip()
    assert token_range(tokenizer, row, "eed") == token_range(tokenizer, row, "Needle") == (2, 3), "all of a token"
    assert token_range(tokenizer, [0, *row], "Needle") == (3, 4), "what stands in front shifts it"


@pytest.mark.parametrize("subject, tokens", [("東京", (4, 10)), ("京", (7, 10)), ("is", (1, 3)), ("é", (11, 13))])
def test_letters_of_several_tokens(subject, tokens):
    assert token_range(Bytes(), Bytes().encode(" is 東京 é"), subject) == tokens


def test_whole_words_come_first():
    assert token_range(Bytes(), Bytes().encode("Romeo saw Rome"), "Rome") == (10, 14)


def test_positions_are_taken_as_they_are():
    assert token_range(Words(), [1, 2, 3], (1, 3)) == (1, 3) and token_range(Words(), [1, 2, 3], [0, 1]) == (0, 1)


@pytest.mark.parametrize("subject, sentence", [
    ("w1", "the subject 'w1' is in the prompt 2 times: give the token positions of one, subject=(0, 1) or (2, 3)"),
    ("w99", "the subject 'w99' is not in the prompt"), ("w2 w3 w1", "did you mean 'w2 w1 w30'?"),
    (" ", "the subject is empty"), ((0, 5), "positions (0, 5) are out of range: the prompt has tokens 0 to 3"),
    ((2, 1), "out of range"), ((-1, 1), "out of range")])
def test_bad_subjects(subject, sentence):
    with pytest.raises(CourseError) as error:
        token_range(Words(), [1, 2, 1, 30], subject)
    assert sentence in str(error.value) and "\n" not in str(error.value)

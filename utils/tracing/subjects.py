"""Where the subject of a fact stands in a prompt: guessing it, and finding its tokens."""
from __future__ import annotations

import re

from ..errors import CourseError, nearest

# Capitalised words, with small words between them as in "Statue of Liberty" or "Leonardo da Vinci".
# A word may hold signs, as in "AT&T" or "AC/DC", and initials end in a dot, as in "J.K. Rowling".
_CAPITAL = r"[^\W\d_a-zß-ÿ]"
_WORD = rf"(?:(?:{_CAPITAL}\.)+(?=\s|{_CAPITAL})|{_CAPITAL}(?:[\w'’-]|[&./](?={_CAPITAL}))*)"
_NAME = re.compile(rf"(?<!\w){_WORD}(?:\s+(?:(?:of|the|da|de|del|di|la|le|van|von|der)\s+){{0,2}}{_WORD})*")
_QUOTED = re.compile(r"[\"“]([^\"”]+)[\"”]")
_OPENERS = set("a an the in on at to by for from with if since after before while because although q is are was were "
               "do does did who whose what where when which why how".split())


def guess_subject(prompt: str) -> str:
    """The subject of a sentence: what stands in double quotes, else its first capitalised name.

    Words that open a sentence (a question word, a preposition, an article by itself) are no name. A guess, no parser:
    in "Fans know Miles Davis" it takes Fans, and lower-case subjects it does not see.
    Raises CourseError if nothing is found.
    """
    if quoted := _QUOTED.search(prompt):
        return quoted[1].strip()
    for found in _NAME.finditer(prompt):
        words = re.sub(r"['’]s$", "", found[0]).split()
        while words and _opens(words[0]) and words[0].lower() not in ("the", "a", "an"):
            words.pop(0)
        if not all(map(_opens, words)):
            return " ".join(words)
    raise CourseError(f"no subject can be guessed in {prompt[:60]!r}, with no capitalised name: say it with subject=")


def _opens(word: str) -> bool:
    """True for a word that opens a sentence; one of capitals alone is a name, such as WHO."""
    return word.lower() in _OPENERS and (len(word) == 1 or not word.isupper())


def token_range(tokenizer, row: list[int], subject: str | tuple[int, int]) -> tuple[int, int]:
    """(first, end) positions of the tokens that cover `subject` in the tokens `row`; positions come back checked.

    Raises CourseError if the subject does not stand there (names the nearest words), or at several places (says where).
    """
    if not isinstance(subject, str):
        first, end = subject
        if not 0 <= first < end <= len(row):
            raise CourseError(f"the subject's positions ({first}, {end}) are out of range: the prompt has tokens 0 to "
                              f"{len(row) - 1}, and the end is not included")
        return int(first), int(end)
    subject = subject.strip()
    if not subject:
        raise CourseError("the subject is empty: give the words of the prompt that are to be corrupted")
    # Text up to each token. Half a character decodes to a replacement sign: the token before it does not end there.
    until = [tokenizer.decode(row[:i]) for i in range(len(row) + 1)]
    starts, ends = [len(text.rstrip("\ufffd")) for text in until[:-1]], [len(text) for text in until[1:]]
    text, name = until[-1], re.escape(subject)
    places = list(re.finditer(rf"(?<!\w){name}(?!\w)", text)) or list(re.finditer(name, text))
    if not places:
        raise CourseError(f"the subject {subject!r} is not in the prompt{_nearest(subject, text)}")
    ranges = []
    for place in places:
        touched = [i for i, (a, b) in enumerate(zip(starts, ends)) if a < place.end() and b > place.start()]
        ranges.append((touched[0], touched[-1] + 1))
    if len(ranges) > 1:
        raise CourseError(f"the subject {subject!r} is in the prompt {len(ranges)} times: give the token positions of "
                          f"one, subject={' or '.join(map(str, ranges))}")
    return ranges[0]


def _nearest(subject: str, text: str) -> str:
    """The words of `text`, as many as the subject has, that are spelled most like it, as the end of a sentence."""
    words, n = re.findall(r"[\w'’-]+", text), len(subject.split())
    runs = [" ".join(words[i:i + n]) for i in range(len(words) - n + 1)]
    return nearest(subject, runs, "give words of the prompt itself")

"""Every cell of the table: is what `utils` gives equal to the reference, or refused in one sentence?"""
from dataclasses import dataclass
from functools import lru_cache

from small_models import MODELS, STRANGERS

from utils.errors import CourseError

from .capabilities import METHODS, SITES
from .cases import Case

CAPABILITIES = SITES | METHODS
FAMILIES = tuple(name for name in MODELS if name not in ("bert_answerer", *STRANGERS))
CLOSE = 1e-5  # of the range of what is expected
_EXPECTED = {}


@dataclass(frozen=True)
class Cell:
    """verdict: equal, refused, partly (equal or refused) or wrong; remarks: sentences of the refusals, or what is wrong."""
    verdict: str
    remarks: tuple[str, ...] = ()


@lru_cache(maxsize=None)
def cell(name, load, capability):
    case = Case(name, load)
    try:
        case.model
    except CourseError as refusal:
        return _refused([str(refusal)])
    except Exception as error:
        return Cell("wrong", (f"loading: {type(error).__name__}: {_short(error)}",))
    outcomes = [_judge(case, capability, pair) for pair in CAPABILITIES[capability](case)]
    wrong = [remark for verdict, remark in outcomes if verdict == "wrong"]
    refusals = [remark for verdict, remark in outcomes if verdict == "refused"]
    if wrong:
        return Cell("wrong", tuple(wrong))
    if len(refusals) == len(outcomes):
        return _refused(refusals)
    return Cell("partly", tuple(dict.fromkeys(refusals))) if refusals else Cell("equal")


def _refused(sentences):
    return Cell("refused", tuple(dict.fromkeys(sentences)))


def _judge(case, capability, pair):
    """(equal, refused or wrong; what is to be said about it) of one pair."""
    try:
        found = pair.found()
    except CourseError as refusal:
        text = str(refusal)
        good = "\n" not in text and not text.endswith(".") and 20 < len(text) < 400
        return ("refused", text) if good else ("wrong", f"{pair.what}: refused, but not in one sentence: {text!r}")
    except Exception as error:
        return "wrong", f"{pair.what}: {type(error).__name__}: {_short(error)}"
    if pair.expected is None:
        return "wrong", f"{pair.what}: gives numbers for what the architecture does not have"
    key = case.name, capability, pair.what
    if key not in _EXPECTED:
        _EXPECTED[key] = _try(pair.expected)
    expected = _EXPECTED[key]
    if isinstance(expected, str):
        return "wrong", f"{pair.what}: gives numbers, though {expected}"
    if found.shape != expected.shape:
        return "wrong", f"{pair.what}: shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    unit = case.range if pair.in_logits else (expected.max() - expected.min()).item()
    error = (found.double() - expected.double()).abs().max().item() / unit
    return ("equal", "") if error <= CLOSE else ("wrong", f"{pair.what}: {error:.1g} of the range off")


def _try(expected):
    """The expected value, or why there is none."""
    try:
        return expected()
    except AssertionError as reason:
        return str(reason).splitlines()[0]


def _short(error):
    return " ".join(str(error).split())[:100]

"""Bad input is answered with one sentence."""
import traceback

import pytest

from utils.errors import CourseError


def sentence(call, *parts):
    """`call` raises a CourseError of one line that holds all `parts` and hides the errors beneath it."""
    with pytest.raises(CourseError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and not text.endswith(".") and 20 < len(text) < 400, text
    for part in parts:
        assert part in text, text
    shown = "".join(traceback.format_exception(error.value))
    assert "During handling" not in shown and "direct cause" not in shown
    return text

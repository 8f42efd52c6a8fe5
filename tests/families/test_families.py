"""Every capability on every family is equal to the reference, or refused where it may be; see `cases` and `allowed`."""
import pytest
from small_models import STRANGERS, bridge, random_prompts

from utils.engine import Site, read

from .allowed import ALLOWED, reason_for
from .cases import LOADS
from .document import PATH, document
from .table import CAPABILITIES, FAMILIES, cell

CELLS = [(name, load, capability) for name in FAMILIES for load in LOADS for capability in CAPABILITIES]


@pytest.mark.parametrize("name, load, capability", CELLS)
def test_cell(name, load, capability):
    found = cell(name, load, capability)
    assert found.verdict != "wrong", "\n".join(found.remarks)
    if found.verdict != "equal":
        assert reason_for(name, load, capability), f"{found.verdict}: {found.remarks}"


@pytest.mark.parametrize("name, load, capability", [(n, l, c) for n in STRANGERS for l in LOADS for c in CAPABILITIES])
def test_a_family_without_a_record_is_equal_or_refused_too(name, load, capability):
    found = cell(name, load, capability)
    assert found.verdict != "wrong", "\n".join(found.remarks)


def test_the_document_is_in_step():
    assert PATH.read_text(encoding="utf-8") == document(), "run python -m tests.families"


def test_what_may_be_refused_names_families_and_capabilities_that_there_are():
    for names, loads, capabilities, reason in ALLOWED:
        assert set(names) <= set(FAMILIES) and set(loads) <= set(LOADS) and reason
        assert set(capabilities or ()) <= set(CAPABILITIES)


def test_a_family_without_a_record_is_named_once(monkeypatch):
    monkeypatch.setattr("utils.engine.sites._SAID", set())
    with pytest.warns(UserWarning, match="no record of the family 'starcoder2'") as said:
        for _ in range(2):
            read(bridge("starcoder2"), random_prompts(), [Site("z", 0)])
    assert len(said) == 1

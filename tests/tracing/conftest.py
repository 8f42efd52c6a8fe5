"""Fixtures for the tests of causal tracing."""
import pytest

from utils.models import load_model
from utils.tracing import CausalTracer


@pytest.fixture(scope="session")
def shipped():
    return CausalTracer(load_model())

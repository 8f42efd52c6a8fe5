"""Fixtures for the tests of alignment search."""
import pytest
from sums import summing_network


@pytest.fixture(scope="session")
def summing():
    """(a frozen random network, its eight inputs), see tests/sums.py."""
    return summing_network()

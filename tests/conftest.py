"""Fixtures for all tests."""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share the cores: more threads would wait for one another

import pytest
from tiny import Course


@pytest.fixture
def tiny_course(tmp_path):
    """An empty course in a temporary folder, see tests/tiny.py."""
    root = tmp_path / "tiny"
    root.mkdir()
    return Course(root)


@pytest.fixture(scope="session")
def adder(tmp_path_factory):
    """The folder of a small random adder, see tests/sums.py."""
    from sums import save_adder
    return str(save_adder(tmp_path_factory.mktemp("models") / "adder"))

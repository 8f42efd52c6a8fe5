"""Fixtures for all tests."""
import pytest
from tiny import Course


@pytest.fixture
def tiny_course(tmp_path):
    """An empty course in a temporary folder, see tests/tiny.py."""
    root = tmp_path / "tiny"
    root.mkdir()
    return Course(root)

"""For every test, and for the notebooks that nbval collects from course/ and solutions/."""
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"      # before anything imports huggingface_hub; the notebooks' kernels inherit it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Solutions run with COURSE_STRICT=1, course notebooks without.

    nbval starts the kernel of a notebook during the setup of its first cell, and the kernel inherits this process's
    environment.
    """
    if item.path.suffix != ".ipynb":
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_STRICT", "1" if item.path.parent.name == "solutions" else "0")
        return (yield)

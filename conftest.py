"""For every test, and for the notebooks that nbval collects from course/ and solutions/."""
import os
import re
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"      # before anything imports huggingface_hub; the notebooks' kernels inherit it
KERNELS = Path(__file__).with_name("tests") / "kernels.py"

# What takes longest begins first, so that the two workers end together.
LONG = ("solutions/", "course/", "tests/training/", "tests/families/", "tests/authoring/", "tests/alignment/",
        "tests/house/", "tests/checks/")


def scope_of(nodeid):
    """What one worker runs in one go: a file; for a solution, also the tests of its lesson, which need its kernel."""
    file = nodeid.split("::")[0]
    lesson = re.fullmatch(r"(?:solutions/|tests/lessons_run/test_lesson_)(\d\d)\D.*", file)
    return f"solutions/{lesson[1]}" if lesson else file


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    def place(item):
        scope = scope_of(item.nodeid)
        rank = next((i for i, start in enumerate(LONG) if scope.startswith(start)), len(LONG))
        return rank, scope, item.path.suffix != ".ipynb"
    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        _split_scope = staticmethod(scope_of)
    config.option.loadscopereorder = False          # the order of `pytest_collection_modifyitems`
    return ByScope(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Solutions run with COURSE_STRICT=1, course notebooks without.

    nbval starts the kernel of a notebook during the setup of its first cell, and the kernel inherits this process's
    environment. On Linux it is forked, see tests/kernels.py.
    """
    if item.path.suffix != ".ipynb":
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_STRICT", "1" if item.path.parent.name == "solutions" else "0")
        if KERNELS.exists() and sys.platform == "linux":
            from kernels import fork_kernel
            patch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", fork_kernel)
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    """Before the kernel of a solution stops, the tests of its lesson run in it."""
    last_cell = item.path.suffix == ".ipynb" and nextitem is not None and nextitem.path != item.path
    if last_cell and scope_of(nextitem.nodeid) == scope_of(item.nodeid):
        from lessons import run_tests_in_kernel
        run_tests_in_kernel(item.parent, item.session.items)
    return (yield)

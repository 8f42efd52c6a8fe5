"""`python -m tests.families`: run every cell, write docs/families.md, name what is wrong; exits with 1 if anything is."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' own modules, as pytest finds them

from .allowed import reason_for  # noqa: E402
from .cases import LOADS  # noqa: E402
from .document import PATH, document  # noqa: E402
from .table import CAPABILITIES, FAMILIES, cell  # noqa: E402


def main():
    PATH.write_text(document(), encoding="utf-8")
    bad = 0
    for name, load, capability in ((n, l, c) for n in FAMILIES for l in LOADS for c in CAPABILITIES):
        found = cell(name, load, capability)
        if found.verdict == "wrong" or (found.verdict != "equal" and reason_for(name, load, capability) is None):
            bad += 1
            print(f"{name}, {load}, {capability}: {found.verdict}", *found.remarks, sep="\n    ")
    print(f"{bad} cells are neither equal nor refused where they may be" if bad else "every cell is as it should be")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())

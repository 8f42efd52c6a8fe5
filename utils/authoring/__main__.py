"""python -m utils.authoring [--check | --execute [NAME ...]]"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import nearest
from . import build
from .notebook import ROOT, Refused


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command and return the exit code: 0, or 1 with one printed sentence per problem."""
    parser = argparse.ArgumentParser(prog="python -m utils.authoring", description="Derive course/ from solutions/.")
    parser.add_argument("--check", action="store_true", help="report what is out of step or against the rules")
    parser.add_argument("--execute", nargs="*", metavar="NAME", help="run these solutions (all without a name)")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            found = build.problems(root)
        else:
            written = build.build(root)
            if options.execute is not None:
                from .execute import execute
                written += [path for path in _chosen(root, options.execute) if execute(path)] + build.build(root)
            print("\n".join(f"wrote {path.relative_to(root)}" for path in dict.fromkeys(written)) or "nothing to do")
            found = build.extra(root)
    except Refused as error:
        found = error.problems
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return int(bool(found))


def _chosen(root: Path, names: list[str]) -> list[Path]:
    """The solution notebooks called `names`, by file name or its beginning; all of them without a name."""
    paths = sorted((root / "solutions").glob("*.ipynb"))
    chosen = []
    for name in (Path(name).name for name in names):
        found = [path for path in paths if path.name.startswith(name)]
        if not found:
            raise Refused([f'There is no solution notebook "{name}"' + nearest(name, [path.name for path in paths])])
        chosen += found
    return chosen or paths


if __name__ == "__main__":
    sys.exit(main())

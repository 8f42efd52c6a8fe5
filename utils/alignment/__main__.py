"""python -m utils.alignment sweep --layers 0 1 --ranks 64 256 --out results.jsonl [--graphs ... --workers 2]

python -m utils.alignment graphs --layers 1 --ranks 64 --out graphs.npz: all pairs of inputs, at one cell
"""
from __future__ import annotations

import argparse
import shlex
import sys

from ..errors import CourseError
from ..tasks import SUMS
from .graphs import make_graphs
from .study import Study, sweep

FEW = {"rows": "swaps for the search", "held_out_rows": "swaps for the score", "steps": "of a search, at most",
       "batch_size": "swaps in a step", "every": "steps between two looks at validation rows",
       "patience": "looks without a lower loss before a search ends", "seed": "of everything"}

TASKS = {"sweep": "distributed alignment search for layers x ranks x causal models of a sum",
         "graphs": "swaps between all pairs of inputs, at one layer and rank, for several causal models"}


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--model", default="arithmetic-gpt2", help="shipped model, folder or hub id")
    command.add_argument("--out", required=True, help="results file; if it exists, the work goes on")
    command.add_argument("--layers", type=int, nargs="+", required=True)
    command.add_argument("--ranks", type=int, nargs="+", required=True)
    command.add_argument("--graphs", nargs="+", default=list(SUMS),
                         help=f"of {', '.join(SUMS)}; all of them by default")
    command.add_argument("--position", type=int, help="one position instead of all jointly")
    command.add_argument("--rate", type=float, default=Study.rate, help="learning rate of Adam")
    for option, meaning in FEW.items():
        command.add_argument("--" + option.replace("_", "-"), type=int, default=getattr(Study, option), help=meaning)
    if name == "sweep":
        command.add_argument("--keep", help="folder for the subspaces that are found")
        command.add_argument("--workers", type=int, default=1, help="processes")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit code: 0, 1 with one printed sentence, 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m utils.alignment", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, meaning in TASKS.items():
        _add_options(commands.add_parser(name, help=meaning), name)
    options = parser.parse_args(arguments)
    study = Study(options.model, tuple(options.layers), tuple(options.ranks), tuple(options.graphs), options.position,
                  rate=options.rate, **{name: getattr(options, name) for name in FEW})
    written = "python -m utils.alignment " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        if options.command == "graphs":
            made = make_graphs(study, options.out, command=written, progress=True)
            print(f"{len(made.success)} graphs in {options.out}")
            return 0
        done = sweep(study, options.out, workers=options.workers, command=written, keep=options.keep, progress="cells")
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{done} of {len(study.cells)} cells computed, results in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.benchmarks`: time the course against its peers and write RESULTS.md. Needs Linux."""
from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from pathlib import Path
from typing import Sequence

from . import report
from .environment import HERE, PEERS_OWN, default_folder, machine, model_folder, peers_python
from .harness import BenchmarkError
from .ledger import Ledger, code
from .measure import growth, growth_verdicts, pairs
from .suites import SUITES, Suite


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(
        "Times the course against TransformerLens, causal-tracer, pyvene and loops of forward passes, and compares their "
        "numbers. A complete run writes its report into tests/benchmarks, and one that was interrupted goes on where it "
        "stopped; with --only, --models or --quick the report is only printed. Exits with 1 if numbers differ or a "
        "target is missed. Use a quiet machine."))
    parser.add_argument("suite", nargs="?", default="engine", choices=SUITES,
                        help="interventions (engine, the default: RESULTS.md) or alignment search (RESULTS-alignment.md)")
    parser.add_argument("--peers", type=Path, default=default_folder(), metavar="FOLDER",
                        help="where the peers' environment is, or is made (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    for option, what in (("--only", "names"), ("--models", "models")):
        parser.add_argument(option, nargs="+", metavar="NAME", help="; ".join(
            f"{name}: {', '.join(getattr(suite, what))}" for name, suite in SUITES.items()))
    parser.add_argument("--repetitions", type=int, metavar="N", help="; ".join(
        f"{name}: {suite.repetitions}" for name, suite in SUITES.items()))
    parser.add_argument("--quick", action="store_true", help="a tiny model, once: do the parts work?")
    chosen = parser.parse_args(argv)
    suite = chosen.suite = SUITES[chosen.suite]
    for option, known in (("only", suite.names), ("models", suite.models)):
        wrong = set(getattr(chosen, option) or ()).difference(known)
        if wrong:
            parser.error(f"--{option}: {', '.join(sorted(wrong))} is not among {', '.join(known)}")
        setattr(chosen, option, getattr(chosen, option) or [*known])
    chosen.repetitions = chosen.repetitions or suite.repetitions
    if chosen.quick:
        chosen.models, chosen.threads, chosen.repetitions = [suite.tiny], [1], 1
    return chosen


def measure_all(chosen: argparse.Namespace, ledger: Ledger) -> None:
    """Measure what the ledger does not hold yet."""
    suite, versions = chosen.suite, {}
    jobs = [suite.small(job) if chosen.quick else job for job in suite.jobs if job.name in chosen.only]
    pythons = dict.fromkeys([suite.ours, *(job.peer for job in jobs)], Path(sys.executable))
    for side in pythons.keys() & PEERS_OWN:
        pythons[side] = peers_python(chosen.peers)
    with tempfile.TemporaryDirectory() as scratch:
        for model in chosen.models:
            folder = model_folder(model, Path(scratch))
            for threads in chosen.threads:
                options = dict(threads=threads, repetitions=chosen.repetitions, versions=versions)
                left = [job for job in jobs if not ledger.has(job.name, model, threads)]
                for pair in pairs(left, pythons, folder, ours=suite.ours, **options):
                    ledger.add(versions, pair)
                    print(f"{model}, threads {threads}, {pair.job.name}: ratio {pair.ratio:.1f}, difference "
                          f"{pair.difference:.1e}", file=sys.stderr, flush=True)
                if "growth" in chosen.only and model == chosen.models[0] and not ledger.has_growth(threads):
                    ledger.add(versions, growth=growth(pythons[suite.ours], folder, **options))


def reached(found: Ledger, chosen: argparse.Namespace) -> bool:
    """Were all numbers the same and all targets met? Times of a tiny model count for nothing."""
    verdicts = [pair.verdicts for pair in found.pairs]
    if not chosen.quick:
        verdicts += [growth_verdicts([row for row in found.growth if row.threads == threads])
                     for threads in chosen.threads if found.growth]
    return all(all(verdict.values()) for verdict in verdicts)


def main(argv: Sequence[str] | None = None) -> int:
    chosen = arguments(argv)
    suite = chosen.suite
    complete = not chosen.quick and chosen.only == suite.names and chosen.models == [*suite.models]
    with tempfile.TemporaryDirectory() as scratch:
        kept = chosen.peers if complete else Path(scratch)
        ledger = Ledger(kept / suite.unfinished, f"{code(suite.ours)} {chosen.repetitions}", suite.jobs)
        return _report(chosen, ledger, complete)


def _report(chosen: argparse.Namespace, ledger: Ledger, complete: bool) -> int:
    suite = chosen.suite
    try:
        measure_all(chosen, ledger)
    except (BenchmarkError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    text = report.write(ledger.pairs, ledger.growth, machine=machine(), versions=ledger.versions,
                        date=datetime.date.today().isoformat(), command=_command(suite, chosen), title=suite.title,
                        notes=suite.notes, arithmetic=suite.grows)
    if complete:
        (HERE / suite.results).write_text(text, encoding="utf-8")
        ledger.close()
    print(text)
    return 0 if reached(ledger, chosen) else 1


def _command(suite: Suite, chosen: argparse.Namespace) -> str:
    name = next(name for name, other in SUITES.items() if other is suite)
    return (f"python -m tests.benchmarks{'' if name == 'engine' else ' ' + name} "
            f"--threads {' '.join(map(str, chosen.threads))} --repetitions {chosen.repetitions}")


if __name__ == "__main__":
    sys.exit(main())

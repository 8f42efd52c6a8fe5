"""The course's engine timed against the libraries it stands beside: `python -m tests.benchmarks` (see `--help`).

`jobs` says what is timed, `harness` how, `report` what is written down. Each side is one module that knows how to load
a model and do the jobs (`ours`, `peer_lens`, `peer_tracer`), run by `worker` in a process of its own.
"""

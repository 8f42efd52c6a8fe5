"""One side in a process of its own: `python -m benchmarks.worker SIDE MODEL_FOLDER THREADS`.

Reads one request a line from standard input, {"work", "settings", "out", "count"}, does it, writes the arrays to the
file `out` and answers with one line, {"seconds", "counted"}. The clock runs around the work alone; work that answers with a
function has it called, for the arrays, when the clock has stopped.
"""
from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
from contextlib import nullcontext


def main(side: str, folder: str, threads: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)                                   # what libraries print must not end up among the answers
    import numpy as np
    import torch

    torch.set_num_threads(int(threads))
    module = importlib.import_module(f".{side}", __package__)
    model = module.load(folder)
    versions = {name: importlib.metadata.version(name) for name in module.PACKAGES}
    print(json.dumps({"versions": versions}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        work = getattr(module, request["work"])
        gc.collect()
        with (module.counting() if request["count"] else nullcontext()) as counter:
            start = time.perf_counter()
            arrays = work(model, **request["settings"])
            seconds = time.perf_counter() - start
        arrays = arrays() if callable(arrays) else arrays
        np.savez(request["out"], **arrays)
        products = [[*shape, operations] for shape, operations in getattr(counter, "products", {}).items()]
        print(json.dumps({"seconds": seconds, "counted": getattr(counter, "flops", None), "products": products}),
              file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])

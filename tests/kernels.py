"""Kernels for nbval, each forked from one process that has imported the large libraries and nothing of the course.

A kernel is a process of its own, as always: it only finds the libraries in memory, which saves five seconds for each of
more than twenty notebooks. What a truly fresh kernel does is tested by test_notebooks_with_nbclient.py.
"""
import multiprocessing
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ["ipykernel.kernelapp", "pandas", "scipy.stats", "sklearn.tree", "torch", "transformer_lens.model_bridge",
             "transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2"]


def fork_kernel(command, *, env=None, cwd=None, **_):
    """In place of `jupyter_client.launcher.launch_kernel`: the process of a kernel, with the methods of a `Popen`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    arguments = command[command.index("ipykernel_launcher") + 1:]
    ready, waiting = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(waiting, arguments, dict(env or os.environ), cwd))
    process.start()
    ready.recv()        # from now on it is a process group of its own, to which jupyter_client sends its signals
    return Kernel(process)


def serve(waiting, arguments, environment, folder):
    """In the forked process: what `python -m ipykernel_launcher` does in a new one."""
    os.setsid()
    waiting.send(None)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    os.chdir(folder)
    sys.path[:] = [path for path in sys.path if path and ROOT not in (Path(path), *Path(path).parents)]
    from ipykernel.kernelapp import launch_new_instance
    launch_new_instance(argv=arguments)


class Kernel:
    """What jupyter_client asks of a `Popen`."""
    stdin = stdout = stderr = None

    def __init__(self, process):
        self.process, self.pid, self.kill, self.terminate = process, process.pid, process.kill, process.terminate

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode

    def send_signal(self, signum):
        os.kill(self.pid, signum)

"""Processes that are killed at random moments.

start(work, *arguments)     a process that loads, says so, and goes on with ``work``; it is waited for until it says so
end(process)                its exit code: 0, what it left with, or minus the number of the signal that killed it

``work(*arguments)`` is a generator that loads what it needs and yields once before what may be killed. Processes are
forked from a server that has imported the package and run nothing: those forked from one process that has shown a
progress bar share its lock, and one that is killed while it holds the lock stops all others for ever.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

SECONDS = 300  # no process of the tests takes a tenth of it

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["cogvsr_utils.models.recording", "cogvsr_utils.models.loading", "pyarrow.parquet"])


def start(work: Callable, *arguments) -> BaseProcess:
    ready, says = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_run, args=(work, arguments, says))
    process.start()
    says.close()
    assert ready.poll(SECONDS) and ready.recv()  # EOFError where it died before
    return process


def end(process: BaseProcess, kill: bool = False) -> int:
    if kill:
        process.kill()
    process.join(SECONDS)
    assert process.exitcode is not None, f"{process} did not end in {SECONDS} s"
    return process.exitcode


def _run(work, arguments, says):
    import torch

    torch.set_num_threads(1)  # several at once, and each the same bytes
    steps = work(*arguments)
    next(steps)
    says.send(True)
    says.close()
    for _ in steps:
        pass

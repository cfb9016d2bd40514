"""Processes that call functions beside this one."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final

MAX_WORKERS: Final = 16
"""More processes than this wait for the disk and for each other."""


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_workers(count: int, *, modules: Sequence[str]) -> ProcessPoolExecutor:
    """Begins to start a pool of processes.

    They share no state with this process, whose threads a fork would lose. They ignore Ctrl-C,
    which this process handles, and end when it ends, however it ends.

    Args:
      count: of processes.
      modules: imported once for all of them, where the system can.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(list(modules))
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin)
    for _ in range(count):  # each starts a process
        pool.submit(os.getpid)
    return pool


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)  # the main thread waits for a call that no one makes

"""Threads that compute ahead; results stay in order."""

import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 4

T = TypeVar("T")


def call_ahead(calls: Iterable[Callable[[], T]]) -> Generator[Callable[[], T], None, None]:
    """Makes calls in threads, a few ahead of the results that were taken.

    Use it in `contextlib.closing`, so that no call begins after an error.

    Yields:
      For each call, in order, a function that returns its result or raises its error.
    """
    calls = iter(calls)
    pool = ThreadPoolExecutor(THREADS)
    try:
        pending = [pool.submit(call) for call in itertools.islice(calls, 2 * THREADS)]
        while pending:
            yield pending.pop(0).result
            pending += [pool.submit(call) for call in itertools.islice(calls, 1)]
    except BaseException:  # also when the generator is closed
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()

"""Work done ahead by threads, its results in order."""

import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 4

T = TypeVar("T")


def call_ahead(calls: Iterable[Callable[[], T]]) -> Generator[Callable[[], T], None, None]:
    """Makes calls in threads, a few ahead of those whose results were asked for.

    Use it in `contextlib.closing`, so that after an error no more calls are begun.

    Yields:
      In order, what gives the result of a call, or raises what the call raised.
    """
    calls = iter(calls)
    pool = ThreadPoolExecutor(THREADS)
    try:
        pending = [pool.submit(call) for call in itertools.islice(calls, 2 * THREADS)]
        while pending:
            yield pending.pop(0).result
            pending += [pool.submit(call) for call in itertools.islice(calls, 1)]
    except BaseException:  # also where the generator is closed
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()

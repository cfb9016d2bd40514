"""Work done ahead by threads, its results in order."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 4

T = TypeVar("T")


def call_ahead(calls: Iterable[Callable[[], T]]) -> Iterator[Callable[[], T]]:
    """Makes calls in threads, a few ahead of those whose results were asked for.

    Yields:
      In order, what gives the result of a call, or raises what the call raised.
    """
    calls = iter(calls)
    with ThreadPoolExecutor(THREADS) as pool:
        pending = [pool.submit(call) for call in itertools.islice(calls, 2 * THREADS)]
        while pending:
            yield pending.pop(0).result
            pending += [pool.submit(call) for call in itertools.islice(calls, 1)]

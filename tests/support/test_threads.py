import contextlib
import functools
import threading

import pytest

from dfgan_jax.support.threads import THREADS, call_ahead


def test_results_come_in_order_whatever_finishes_first():
    first_may_end = threading.Event()

    def call(index):
        if index == 0:
            assert first_may_end.wait(10)
        else:
            first_may_end.set()
        return index

    results = call_ahead(functools.partial(call, index) for index in range(30))
    assert [result() for result in results] == list(range(30))


def test_an_error_comes_where_its_result_is_asked_for():
    def fail():
        raise ValueError("third")

    results = list(call_ahead([lambda: 1, lambda: 2, fail, lambda: 4]))
    assert [results[0](), results[1](), results[3]()] == [1, 2, 4]
    with pytest.raises(ValueError, match="third"):
        results[2]()


def test_no_more_than_a_few_calls_are_made_ahead():
    begun: list[int] = []
    for done, result in enumerate(call_ahead(
            functools.partial(begun.append, index) for index in range(100)), start=1):
        result()
        assert len(begun) <= done + 2 * THREADS
    assert len(begun) == 100


def test_after_an_error_no_more_calls_are_begun():
    begun: list[int] = []
    go_on = threading.Event()

    def call(index):
        begun.append(index)
        if index:
            assert go_on.wait(10)

    with contextlib.closing(call_ahead(
            functools.partial(call, index) for index in range(30))) as results:
        next(results)()
    go_on.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "ThreadPool" in thread.name:
            thread.join(10)
    assert len(begun) <= THREADS + 1

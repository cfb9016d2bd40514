import dataclasses

import jax
import pytest

from configs import cnn10
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.performance.preflight import next_size
from dfgan_jax.performance.programs import Planned, step_on


def images_that_fit(memory, limit, *, first=1, step=1):
    """What the search compiles, and the most that fits of it, for memory that is known."""
    sizes: list[tuple[int, float, bool]] = []
    guess = first
    while guess is not None and len(sizes) < 20:
        sizes.append((guess, memory(guess), memory(guess) <= limit))
        guess = next_size(sizes, limit=limit, step=step)
    return [size for size, _, _ in sizes], max((n for n, _, fits in sizes if fits), default=None)


@pytest.mark.parametrize(("first", "base", "each", "step", "compiled", "most"), [
    # 16 GiB; base + n · each: 1 + 0.5 n fits up to 30.
    (1, 1.0, 0.5, 1, [1, 10, 30], 30),
    # 12 does not fit by far; through zero, 16 / 36 of it should: 5; the line through both: 5.
    (12, 0.0, 3.0, 1, [12, 5], 5),
    # Too pessimistic through zero: 2 would be too many; but it is the only way to know.
    (1, 9.0, 1.0, 1, [1, 2, 7], 7),
    (1, 3.0, 10.0, 1, [1, 2], 1),
    (1, 0.0, 40.0, 1, [1], None),
    # Not by far more at a time than has been seen to compile: 16 / 2^-7 = 2048.
    (1, 0.0, 2**-7, 1, [1, 16, 256, 2048], 2048),
    # In multiples of `accumulate`.
    (4, 1.0, 0.5, 4, [4, 20, 28], 28),
])
def test_search_finds_the_most_that_fits_on_a_line(first, base, each, step, compiled, most):
    assert images_that_fit(lambda n: base + n * each, 16.0, first=first, step=step) == (
        compiled, most)


def test_search_ends_where_the_compiler_changes_its_ways():
    def memory(n):  # beyond 8, computing again saves half
        return 1 + n if n < 8 else 1 + n / 2
    compiled, most = images_that_fit(memory, 16.0)
    assert most == 30
    assert len(compiled) < 8


def test_validation_is_planned_with_a_part_of_the_batch():
    options = RunOptions.of(cnn10.get_config("demo"))
    planned = Planned(config="", model="", training=dataclasses.replace(
        options.training(total_steps=1), accumulate=2), batch_size=4, size=32, slice_size=64,
        parallel="jit", dtype="float32")
    shapes = {step: step_on(planned, jax.devices()[:1], step, 4)[2]["ndct"].shape
              for step in ("train", "evaluation")}
    assert shapes == {"train": (4, 32, 32, 1), "evaluation": (2, 64, 64, 1)}

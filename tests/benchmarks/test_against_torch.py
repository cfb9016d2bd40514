import importlib.util
import itertools
import pathlib
import stat
import sys
import time

import numpy as np
import pytest
from absl import flags

from benchmarks import against_torch
from benchmarks.against_torch import (
    RefusedError,
    WorkerError,
    WorkerProcess,
    check_same,
    find_torch,
    ratio,
    ratios,
    summary,
)
from dfgan_jax.support.errors import InputError


def script(path, *lines):
    """An executable that stands in for an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def row(framework, variant, batch, rounds_ms, dtype="float32"):
    name = f"{framework} {variant}, {dtype}"
    median = float(np.median(rounds_ms))
    return {"framework": framework, "variant": variant, "name": name, "batch": batch,
            "dtype": dtype, "rounds_ms": rounds_ms, "images_per_s": 1e3 * batch / median}


def test_ratio_compares_within_a_round():
    assert ratio([6.0, 2.0, 30.0], [2.0, 1.0, 5.0]) == (3.0, 2.0, 6.0, 2.0)


def test_ratios_are_of_the_same_batch_and_of_each_sides_best():
    rows = [row("torch", "eager", 1, [10.0, 10.0]), row("torch", "eager", 4, [80.0, 80.0]),
            row("jax", "ours", 1, [5.0, 5.0]), row("jax", "ours", 4, [8.0, 16.0]),
            {"framework": "torch", "batch": 1, "status": "failed: no compiler"}]
    found = {each["batch"]: (each["torch_batch"], each["ours_batch"], each["median"], each["min"],
                             each["max"]) for each in ratios(rows)}
    # Best for an image: PyTorch 10 ms (batch 1), ours 3 ms (batch 4).
    assert found == {"1": (1, 1, 2.0, 2.0, 2.0), "4": (4, 4, 7.5, 5.0, 10.0),
                     "best": (1, 4, 3.75, 2.5, 5.0)}


def jobs(*, eager=True):
    """Of each task one job, and one of a compiled form, in which ours is measured anew."""
    first = [row("torch", "channels_last", 2, [9.0]), row("jax", "ours", 2, [3.0])]
    first += [row("torch", "eager", 2, [12.0])] if eager else []
    second = [row("torch", "default", 2, [6.0]), row("jax", "ours", 2, [4.0])]
    return [{"task": task, "sides": sides, "ratios": ratios(sides)}
            for sides, task in itertools.product([first, second], ["training", "inference"])]


def test_summary_is_against_eager_and_against_the_fastest():
    result = summary(jobs())
    assert (result["train_ratio"], result["train_ratio_fastest"]) == (4.0, 1.5)
    assert (result["inference_ratio"], result["inference_ratio_fastest"]) == (4.0, 1.5)


def test_summary_needs_eager():
    with pytest.raises(WorkerError, match="eager PyTorch has not been compared"):
        summary(jobs(eager=False))


@pytest.mark.parametrize(("exact", "error"), [(True, 2e-4), (False, 0.05)])
def test_different_images_end_the_benchmark(exact, error):
    images = np.random.default_rng(0).normal(size=(2, 32, 32))
    with pytest.raises(WorkerError, match="denoised differs by"):
        check_same({"denoised": images + error * images.std()}, {"denoised": images}, exact=exact,
                   what="x")
    check_same({"denoised": images + error / 10 * images.std()}, {"denoised": images}, exact=exact,
               what="x")


@pytest.mark.parametrize("loss", [1.0001, float("nan")])
def test_different_losses_end_the_benchmark(loss):
    with pytest.raises(WorkerError, match="generator_loss differs by"):
        check_same({"generator_loss": np.asarray(loss)}, {"generator_loss": np.asarray(1.0)},
                   exact=True, what="x")


class TestInterpreter:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """Three virtual environments, of which the second and third have PyTorch; not here."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        for name, status in (("3.11", 1), ("3.12", 0), ("3.13", 0)):
            script(tmp_path / f".venv-{name}/bin/python", f"exit {status}")
        return tmp_path

    def test_the_named_one(self, folder):
        assert find_torch("mine", folder=folder) == "mine"

    def test_this_one(self, folder, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        assert find_torch(None, folder=folder) == sys.executable

    def test_the_first_virtual_environment_that_has_it(self, folder):
        assert find_torch(None, folder=folder) == str(folder / ".venv-3.12/bin/python")

    def test_none(self, folder):
        with pytest.raises(InputError, match="--torch_python"):
            find_torch(None, folder=folder / "empty")


class TestWorkerProcess:
    @pytest.fixture
    def start(self, tmp_path):
        started = []

        def start(*lines):
            started.append(WorkerProcess("torch", str(script(tmp_path / "python", *lines))))
            return started[-1]
        yield start
        for process in started:
            process.close()

    def test_one_that_ends_tells_its_last_line(self, start):
        with pytest.raises(WorkerError, match="status 3: No module named 'torch'"):
            start("echo trace", "echo \"No module named 'torch'\"", "exit 3").ask("describe")

    def test_one_that_takes_too_long(self, start):
        with pytest.raises(TimeoutError):
            start("sleep 60").ask("describe", timeout_s=0.05)

    def test_what_it_started_ends_with_it(self, start, tmp_path):
        file = tmp_path / "pid"
        process = start(f"sleep 60 & echo $! > {file}.part; mv {file}.part {file}", "wait")
        while not file.exists():
            time.sleep(0.01)
        process.close()
        state = pathlib.Path(f"/proc/{int(file.read_text())}/stat")
        deadline = time.monotonic() + 2
        while state.exists() and state.read_text().split()[2] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_an_interpreter_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match="cannot be started"):
            WorkerProcess("torch", str(tmp_path / "missing"))

    def test_a_request_that_fails_is_told_and_the_next_one_answered(self, start):
        # The real loop, around a framework that has nothing to import.
        program = ("import sys, types; from multiprocessing.connection import Connection; "
                   "from benchmarks import worker; "
                   "sys.modules['benchmarks.fake_side'] = types.SimpleNamespace("
                   "describe=lambda: {'framework': 'fake'}, release=lambda: 1 / 0); "
                   "worker.serve('fake', Connection(int(sys.argv[1])))")
        process = start(f'exec "{sys.executable}" -c "{program}" "$4"')
        with pytest.raises(RefusedError, match="ZeroDivisionError: division by zero"):
            process.ask("release")
        assert process.ask("describe")["framework"] == "fake"


def test_the_machine_decides_what_is_run():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["against_torch"])
    for is_gpu, training, inference in ((False, {(4, 128)}, {(1, 512), (4, 512)}),
                                        (True, {(16, 256), (64, 256)}, {(16, 512), (64, 512)})):
        first, second, *_ = against_torch.plan(against_torch.Machine(is_gpu, float("inf")))
        assert {(side.batch, side.size) for side in first.sides} == training
        assert {(side.batch, side.size) for side in second.sides} == inference
        assert {side.dtype for side in first.sides} == {"float32", *(["bfloat16"] * is_gpu)}

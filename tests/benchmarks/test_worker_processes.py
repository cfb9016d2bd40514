import importlib.util
import pathlib
import stat
import sys
import time

import pytest

from benchmarks.worker_processes import RefusedError, WorkerError, WorkerProcess, find_torch
from dfgan_jax.support.errors import InputError


def script(path, *lines):
    """An executable that stands in for an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


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

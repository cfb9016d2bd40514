import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from dfgan_jax.devices import agreement, processes
from dfgan_jax.devices.launchers import Place
from dfgan_jax.support.errors import InputError, ProcessError
from dfgan_jax.training.saver import Saver
from tests.cli import command
from tests.training import process

ALL_FLAGS = Place(coordinator="host:1", num_processes=3, process_id=2)


def start(count, *arguments):
    """Starts processes of one run, each with the coordinator, `count` and its index as well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return [subprocess.Popen([sys.executable, *arguments, coordinator, str(count), str(index)],
                             cwd=command.ROOT, env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True) for index in range(count)]


def ends(running):
    """The exit status and the output of each process."""
    return [(each.wait(timeout=300), each.stdout.read()) for each in running]


def assert_like(actual, expected):
    """Equal in all that a run has, which may be the second half of the other.

    Other divisions of a sum round otherwise, and 20 updates amplify that: to 2e-5 of a gradient's
    norm on one machine. A gradient of the wrong scale is off by 1e-2 and more.
    """
    assert {f"step {step} generator_loss" for step in range(10, 20)} <= set(actual)
    for name in set(actual) - {"greatest"}:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-5,
                                   err_msg=name)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_like_one(count, tmp_path, request):
    """1 × 4, 2 × 2 and 4 × 1 devices, under pmap and jit: losses, state, validation."""
    if count == 4 and not request.config.getoption("--four-processes"):
        pytest.skip("four processes take a minute on two cores; --four-processes runs them")
    running = start(count, "-m", "tests.training.process", str(4 // count), str(tmp_path))
    expected = process.train("jit")  # four devices of one process
    for status, output in ends(running):
        assert status == 0, output
    assert expected["step 19 generator_loss"] != expected["step 0 generator_loss"]
    assert expected["validation intensity_loss"].shape == (11,)
    for index in range(count):
        for parallel in ("pmap", "jit"):
            actual = np.load(tmp_path / f"{parallel}-{count}-{index}.npz")
            assert actual.files == list(expected)
            assert actual["greatest"] == 10 + count - 1
            assert_like(actual, expected)
        agreed = np.load(tmp_path / f"agreed-{count}-{index}.npz")
        assert agreed["index"] == 0
        assert agreed["x"].tobytes() == process.ODD.tobytes()  # of process 0, bit for bit
        np.testing.assert_array_equal(agreed["items"], 100 + np.arange(14.).reshape(7, 2))
        assert agreed["calls"] == {2: [4, 3], 4: [2, 2, 2, 1]}[count][index]
    # A checkpoint of several processes goes on with one and any number of devices.
    checkpoint = tmp_path / "jit" / "checkpoints" / "10"
    for parallel, devices in [("jit", 1)] if count == 2 else [("pmap", 1), ("jit", 2), ("pmap", 2)]:
        assert_like(process.train(parallel, devices=jax.devices()[:devices],
                                  goes_on_from=checkpoint), expected)
    if count == 4:  # and with more than this process has
        ((status, output),) = ends(start(1, "-c", ON_8_DEVICES, str(checkpoint), str(tmp_path)))
        assert status == 0, output
        for parallel in ("pmap", "jit"):
            assert_like(np.load(tmp_path / f"{parallel}-8.npz"), expected)


ON_8_DEVICES = """
import pathlib, sys
import jax, numpy
from tests.training import process
jax.config.update("jax_num_cpu_devices", 8)
checkpoint, output = map(pathlib.Path, sys.argv[1:3])
for parallel in ("pmap", "jit"):
    numpy.savez(output / f"{parallel}-{jax.device_count()}.npz",
                **process.train(parallel, goes_on_from=checkpoint))
"""


JOIN = """
import signal, sys, time
from dfgan_jax.support.errors import InputError, ProcessError
from dfgan_jax.devices import agreement, processes
from dfgan_jax.devices.launchers import Place
processes.LOST_AFTER_S = 4.0
what, coordinator, count, index = sys.argv[1:]
with processes.joined(Place(coordinator=coordinator, num_processes=int(count),
                            process_id=int(index))):
    print("only process 0 prints this", index)
    agreement.barrier("here")
    if what == index:
        signal.raise_signal(signal.SIGKILL)
    if what == f"error {index}":
        raise InputError("no such file")
    if what == f"held {index}":
        raise ProcessError("run: in use by process 1 on another-machine")
    if what != "nothing":
        time.sleep(100)
"""


@pytest.mark.parametrize(("what", "statuses", "message"), [
    ("nothing", [0, 0, 0], ""),
    ("1", [75, -signal.SIGKILL, 75], "process 1 of this run .* has said nothing for 4 s; the same"),
    # JAX may be quicker to abort, and say less.
    ("0", [-signal.SIGKILL, (75, -signal.SIGABRT), (75, -signal.SIGABRT)],
     "process 0 of this run was killed, or is lost|another task died"),
    ("held 0", [75, 75, 75], "process 0 of this run .* ended: run: in use|Error: run: in use"),
    ("error 1", [1, 1, 1], "process 1 of this run .* ended: no such file|InputError: no such file"),
])
def test_processes_end_together(what, statuses, message):
    for index, (status, output) in enumerate(ends(start(3, "-c", JOIN, what))):
        expected = statuses[index]
        assert status in (expected if isinstance(expected, tuple) else (expected,)), output
        assert ("only process 0 prints this" in output) == (index == 0)
        if status != -signal.SIGKILL:
            assert re.search(message, output), output


@pytest.fixture
def one_of_two(monkeypatch):
    """Stands for a process of two, whose index a test sets; what it does, in order."""
    done = []
    client = types.SimpleNamespace(
        wait_at_barrier=lambda name, _: done.append(name.split("/")[0]),
        key_value_set=lambda key, _, allow_overwrite=False: done.append(key),
        blocking_key_value_get=lambda key, _: done.append(key))
    monkeypatch.setattr(agreement, "client", lambda: client)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: done.append(f"{seconds:.0f} s"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return done


@pytest.mark.parametrize(("index", "expected"), [
    (0, ["called", "main first"]), (1, ["main first", "called"])])
def test_process_0_is_first(one_of_two, monkeypatch, index, expected):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    agreement.main_first(lambda: one_of_two.append("called"))
    assert one_of_two == expected


def test_who_saves_nothing_waits_for_process_0_to_rescue(one_of_two):
    Saver(None, after_s=0, every_s=0).rescue()
    assert one_of_two == ["never"]


@pytest.mark.parametrize(("index", "lost", "expected"), [
    (1, False, ["end/1"]), (1, True, ["end/lost"]), (0, False, ["end/0", "3 s"])])
def test_the_others_learn_why_and_process_0_lets_them_ask(one_of_two, monkeypatch, index, lost,
                                                          expected):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    processes._Watch().tell("reason", lost=lost)
    assert one_of_two == expected


@pytest.mark.parametrize(("error", "told", "expected"), [
    (None, None, ["end", "stopped", 0]),
    (SystemExit(85), SystemExit, ["end", "stopped", 85]),
    (InputError("no file"), InputError, ["told False", 1]),
    (KeyboardInterrupt(), KeyboardInterrupt, ["told False", 130]),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB"), jax.errors.JaxRuntimeError,
     ["told False", 1]),
    (jax.errors.JaxRuntimeError("UNAVAILABLE: closed"), ProcessError, ["told True", 75])])
def test_how_a_process_ends(one_of_two, monkeypatch, error, told, expected):
    watch = types.SimpleNamespace(
        start=lambda: None, join=lambda timeout: None, stop=lambda: one_of_two.append("stopped"),
        tell=lambda _, lost: one_of_two.append(f"told {lost}"))
    monkeypatch.setattr(processes, "_Watch", lambda: watch)
    monkeypatch.setattr(processes, "_initialize", lambda place, timeout_s: None)
    monkeypatch.setattr(processes.atexit, "register", lambda _, status: one_of_two.append(status))
    with (pytest.raises(told) if told else contextlib.nullcontext()), processes.joined(ALL_FLAGS):
        if error is not None:
            raise error
    assert one_of_two == expected


@pytest.mark.parametrize(("index", "killed", "expected"), [
    (0, False, ["leaves/1"]), (0, True, [85]), (1, False, ["leaves/1"])])
def test_at_the_end_of_all_work_one_that_is_killed_does_not_matter(one_of_two, monkeypatch, index,
                                                                   killed, expected):
    """Process 0 waits for the other, and leaves with its own status where it never comes."""
    def never(key, _):
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")

    if killed:
        monkeypatch.setattr(agreement.client(), "blocking_key_value_get", never)
    monkeypatch.setattr(processes, "_leave_at_once", one_of_two.append)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    processes._see_the_others_leave(85)
    assert one_of_two == expected


def test_a_port_that_another_run_listens_at_is_refused():
    with (socket.create_server(("", 0)) as taken,
          pytest.raises(InputError, match="needs a port of its own")):
        processes._initialize(Place(coordinator=f"localhost:{taken.getsockname()[1]}",
                                    num_processes=2, process_id=0, cluster="flags"), timeout_s=1)

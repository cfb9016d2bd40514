import concurrent.futures
import os
import socket
import subprocess
import sys
import time

import pytest

from dfgan_jax.support import locks
from dfgan_jax.support.errors import InputError, ProcessError
from dfgan_jax.support.locks import locked, one_at_a_time
from tests.cli.command import ROOT

HOLD = """
import pathlib, sys, time
from dfgan_jax.support.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT,
                          stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with (pytest.raises(InputError, match=f"{folder}: in use by process {holder.pid} on "),
              locked(folder)):
            pass
        holder.kill()
    with locked(folder):
        assert f"process {os.getpid()} on" in (folder / "lock").read_text()


@pytest.mark.parametrize("holder", [
    "process 1 on another-machine since", f"process {2**22 + 1} on {socket.gethostname()} since",
    f"process {os.getpid()} on {socket.gethostname()} since"],
    ids=["another machine", "a process that is not here", "this very process"])
def test_a_holder_that_is_not_on_this_machine_may_be_gone_soon(tmp_path, holder):
    """Such as a lost node's; containers of one name may be on two machines, too."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        (tmp_path / "lock").write_text(f"{holder} 2026-01-01\n")
        message = (f"{tmp_path}: in use by {holder} 2026-01-01; wait until it has ended, or, once "
                   f"it is certain that no run does, remove {tmp_path}/lock")
        with pytest.raises(ProcessError, match=message), locked(tmp_path):
            pass
        process.kill()


def test_one_waits_for_the_other_and_goes_on_where_that_is_killed(tmp_path, capsys):
    lock = tmp_path / "entry" / "lock"
    order = []

    def wait():
        with one_at_a_time(lock):
            order.append("ours")

    with (subprocess.Popen([sys.executable, "-c", HOLD.replace("locked", "one_at_a_time"), lock],
                           cwd=ROOT, stdout=subprocess.PIPE) as holder,
          concurrent.futures.ThreadPoolExecutor(1) as pool):
        assert holder.stdout.readline() == b"held\n"
        waiting = pool.submit(wait)
        deadline = time.monotonic() + 20
        while f"Waiting for the process that holds {lock}" not in capsys.readouterr().out:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        order.append("killed")
        holder.kill()
        waiting.result(timeout=20)
    assert order == ["killed", "ours"]


def test_where_nothing_can_be_locked_nobody_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "fcntl", None)
    with one_at_a_time(tmp_path / "lock"), one_at_a_time(tmp_path / "lock"):
        pass
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / 'lock'}: cannot be locked (")


def test_where_nothing_can_be_locked_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "fcntl", None)
    with locked(tmp_path):
        pass
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path}: cannot be locked (")

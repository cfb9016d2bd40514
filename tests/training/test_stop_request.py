import os
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest

from dfgan_jax.training.stop_request import StopRequest
from tests.cli import command


def test_a_signal_that_nohup_ignores_stays_ignored():
    code = (f"{command.HEED_SIGNALS}\n"
            "import os\nfrom dfgan_jax.training.stop_request import StopRequest\n"
            "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            "with StopRequest(int) as stop:\n"
            "    os.kill(os.getpid(), signal.SIGHUP)\n"
            "    assert stop.number is None\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n"
            "    assert stop.number == stop.agreed() == signal.SIGTERM\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=command.ROOT, check=False,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SIGTERM: saving first" in done.stderr


@pytest.mark.parametrize(("then", "status"), [
    ("pass", -signal.SIGTERM), ("stop.agreed()", 0), ("raise SystemExit(3)", 3),
    ("os.kill(os.getpid(), signal.SIGTERM); stop.agreed()", -signal.SIGTERM)])
def test_a_signal_that_the_loop_has_not_heeded_acts_after_it(then, status):
    code = (f"{command.HEED_SIGNALS}\n"
            "import os\nfrom dfgan_jax.training.stop_request import StopRequest\n"
            "with StopRequest(int) as stop:\n"
            f"    os.kill(os.getpid(), signal.SIGTERM)\n    {then}\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=command.ROOT, check=False,
                          capture_output=True)
    assert done.returncode == status


def test_of_several_processes_what_they_asked_for_a_step_before_counts():
    others = iter([0, signal.SIGTERM, 0, 0, signal.SIGUSR1])
    stop = StopRequest(lambda number: jnp.int32(max(number, next(others))))
    assert [stop.agreed() for _ in range(3)] == [None, None, signal.SIGTERM]
    assert stop.agreed() is None
    assert stop.agreed(at_last=True) == signal.SIGUSR1


def test_a_signal_while_stderr_waits_for_its_reader_still_saves():
    """A write that it interrupts must not fail, as one by `print` would."""
    code = (f"{command.HEED_SIGNALS}\n"
            "import sys\nfrom dfgan_jax.training.stop_request import StopRequest\n"
            "with StopRequest(int) as stop:\n"
            "    print('ready', flush=True)\n"
            "    while not stop.agreed():\n"
            "        print('x' * 999, file=sys.stderr, flush=True)\n"
            "    sys.exit(3)\n")
    with subprocess.Popen([sys.executable, "-c", code], cwd=command.ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": ""}
                          ) as process:
        process.stdout.readline()
        time.sleep(0.3)  # 64 KiB are full
        process.send_signal(signal.SIGTERM)
        assert b"SIGTERM: saving first" in process.stderr.read()
    assert process.returncode == 3

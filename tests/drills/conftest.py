import os
import sys
import time

import pytest

from drills.runs import Bench, Launcher, Run
from tests.drills.stand_in import PRELUDE


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Makes a bench of a command; its moments are when each process is ready."""
    def until_ready(run, moment_s):
        while any(process.poll() is None and "ready" not in run.text(index)
                  for index, process in enumerate(run.processes)):
            time.sleep(0.005)

    monkeypatch.setattr(Run, "sleep_until", until_ready)
    launcher = Launcher()

    def make(program):
        return Bench(command=(sys.executable, "-S", "-E", "-c", PRELUDE + program),
                     environment=dict(os.environ), folder=tmp_path, launcher=launcher, last_step=8)
    yield make
    launcher.end_all()

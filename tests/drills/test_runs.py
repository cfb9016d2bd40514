import pathlib
import time

import pytest

from drills.runs import InterruptedDrillError
from tests.drills.stand_in import case_of


def test_nothing_runs_or_starts_after_the_end_of_all(bench):
    made = bench("import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n"
                 "say(f'{child.pid} ready')\nsleep()")
    case = case_of(made, "sigkill")
    run = made.start(case.workdir, case.folder, "log", processes=2)
    run.sleep_until(0)
    made.launcher.end_all()
    assert not run.is_alive()
    for index in range(2):
        state = pathlib.Path(f"/proc/{int(run.text(index).split()[0])}/stat")
        deadline = time.monotonic() + 5
        while state.exists() and state.read_text().split()[2] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with pytest.raises(InterruptedDrillError):
        made.start(case.workdir, case.folder, "again")

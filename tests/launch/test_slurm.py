import json
import re
import sys
import time

import pytest

from dfgan_jax.training.writers import read_history
from tests.cli import command
from tests.launch import slurm

EPOCHS = 25
STEPS = 4 * EPOCHS

# Each task compiles the step at each start: this network's in a tenth of the U-Net's time.
SMALLEST = ["--config=configs/cnn10.py:demo", *command.TINY[1:]]

# Stands in for Python: takes the statuses of each start's tasks where main.py takes options.
STAND_IN = """#!/bin/bash
starts=("${@:2}")
IFS=, read -ra tasks <<< "${starts[${SLURM_RESTART_COUNT:-0}]}"
case ${tasks[SLURM_PROCID]} in
    KILL | TERM) kill -"${tasks[SLURM_PROCID]}" $$ ;;
    slow) sleep 2; echo saved; exit 1 ;;
    wait) trap 'sleep 1; echo saved; exit 85' TERM
          echo waits
          while :; do sleep 0.1; done ;;
    *) exit "${tasks[SLURM_PROCID]}" ;;
esac
"""


@pytest.fixture(scope="module")
def cluster():
    reason = slurm.missing()
    if reason:
        pytest.skip(reason)
    with slurm.cluster() as started:
        yield started


def submit(cluster, folder, *arguments, python, tasks=2, **environment):
    """Returns the job's number, and the file that it writes."""
    environment = {"PYTHON": python, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **environment}
    number = cluster.run(
        "sbatch", "--parsable", f"--chdir={command.ROOT}", f"--ntasks-per-node={tasks}",
        f"--output={folder}/%j.out",
        ",".join(["--export=ALL", *(f"{name}={value}" for name, value in environment.items())]),
        str(command.ROOT / "launch" / "slurm.sbatch"), *arguments).strip()
    return number, folder / f"{number}.out"


def wait_for(condition, log, timeout_s=300):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def finished(cluster, number, log):
    """The ended job's state, exit status and restarts."""
    wait_for(lambda: cluster.job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), log)
    job = cluster.job(number)
    return job["JobState"], job["ExitCode"].split(":")[0], int(job["Restarts"])


def test_a_requeued_job_goes_on_where_it_was(cluster, tmp_path):
    workdir = tmp_path / "run"
    number, log = submit(
        cluster, tmp_path, *SMALLEST, *command.make_pairs(tmp_path),
        f"--config.epochs={EPOCHS}", f"--workdir={workdir}", python=sys.executable)

    def has_reached_step_10():
        assert cluster.job(number)["JobState"] in ("PENDING", "RUNNING"), log.read_text()
        return any(row["step"] >= 10 for row in read_history(workdir))

    wait_for(has_reached_step_10, log)
    cluster.run("scontrol", "requeue", number)
    assert finished(cluster, number, log) == ("COMPLETED", "0", 1), log.read_text()

    output = log.read_text()
    stopped = re.search(r"Stopped by SIGTERM at step (\d+), which is saved", output)
    assert stopped is not None, output
    assert 10 <= int(stopped[1]) < STEPS
    assert f"Going on from step {stopped[1]}" in output
    history = read_history(workdir)
    assert [row["step"] for row in history if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert str(STEPS) in {path.name for path in (workdir / "checkpoints").iterdir()}
    assert json.loads((workdir / "results.json").read_text())["slices"] == 3


def test_a_wrong_configuration_is_not_tried_again(cluster, tmp_path):
    number, log = submit(cluster, tmp_path, "--config=configs/none.py", python=sys.executable)
    assert finished(cluster, number, log) == ("FAILED", "1", 0)
    assert "configs/none.py: no such file" in log.read_text()


@pytest.fixture
def stand_in(tmp_path):
    path = tmp_path / "python"
    path.write_text(STAND_IN)
    path.chmod(0o700)
    return path


def test_what_is_started_again_and_what_is_not(cluster, stand_in, tmp_path):
    expected = {}
    for starts, environment, state, status, restarts in [
            # A signal after saving, however often that was.
            (("85,85", "85,85", "0,0"), {"MAX_RESTARTS": 0}, "COMPLETED", "0", 2),
            # A time limit that is too short for the evaluation, or for one step.
            (("TERM,TERM", "TERM,TERM"), {"MAX_RESTARTS": 1}, "FAILED", "143", 1),
            (("138,138",), {"MAX_RESTARTS": 0}, "FAILED", "138", 0),
            # Ends that saved do not count.
            (("85,85", "TERM,TERM", "85,85", "0,0"), {"MAX_RESTARTS": 1}, "COMPLETED", "0", 3),
            # One task is killed; the other tells that it lost one.
            (("0,KILL", "75,KILL", "0,0"), {}, "COMPLETED", "0", 2),
            (("75,0", "0,0"), {}, "COMPLETED", "0", 1),
            (("KILL,1", "KILL,1"), {"MAX_RESTARTS": 1}, "FAILED", "137", 1),
            # An error, and Ctrl-C's signal.
            (("1,0", "0,0"), {}, "FAILED", "1", 0),
            (("130,130", "0,0"), {}, "FAILED", "130", 0)]:
        number, log = submit(cluster, tmp_path, *starts, python=stand_in, **environment)
        expected[number] = log, starts, (state, status, restarts)
    for number, (log, starts, end) in expected.items():
        assert finished(cluster, number, log) == end, f"{starts}: {log.read_text()}"


def test_the_first_task_to_end_lets_the_others_save(cluster, stand_in, tmp_path):
    number, log = submit(cluster, tmp_path, "1,slow", python=stand_in)
    assert finished(cluster, number, log) == ("FAILED", "1", 0)
    assert "saved" in log.read_text()


def test_a_cancelled_job_saves_and_stays_cancelled(cluster, stand_in, tmp_path):
    number, log = submit(cluster, tmp_path, "wait,wait", "0,0", python=stand_in)
    wait_for(lambda: log.exists() and log.read_text().count("waits") == 2, log)
    cluster.run("scancel", number)
    state, _, restarts = finished(cluster, number, log)
    assert (state, restarts) == ("CANCELLED", 0)
    assert log.read_text().count("saved") == 2


def test_started_elsewhere_it_says_where_to(cluster, tmp_path):
    number = cluster.run("sbatch", "--parsable", f"--chdir={tmp_path}", "--output=log",
                         str(command.ROOT / "launch" / "slurm.sbatch")).strip()
    log = tmp_path / "log"
    assert finished(cluster, number, log) == ("FAILED", "1", 0)
    assert "has no main.py; sbatch from the repository" in log.read_text()

import os
import shlex
import shutil
import subprocess
import time

import pytest

from tests.cli import command

SCRIPT = command.ROOT / "launch" / "tpu_pod.sh"
NAMED = ["--name=pod", "--zone=zone-a"]
REQUESTED = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite",
             "--create-option=--spot"]

# Keeps a log of its commands. Answers to describe come from the file of that name's lines, the
# last one again and again; the exit statuses of main.py, of copying and of installing likewise.
# Nothing is not there; of what is broken, nobody knows.
GCLOUD = """#!/usr/bin/env bash
cd "$(dirname "$0")"
printf '%q ' "$@" >> log; echo >> log
next() {
    head -n 1 "$1"
    [[ $(wc -l < "$1") == 1 ]] || sed -i 1d "$1"
}
describe() {
    local answer
    answer=$(next "$1")
    case $answer in
    '') echo "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource 'pod' was not found" >&2; exit 1 ;;
    broken) echo "ERROR: (gcloud.compute.tpus) UNAVAILABLE: try again" >&2; exit 1 ;;
    *) echo "$answer" ;;
    esac
}
case "$*" in
*"tpu-vm describe"*) describe tpu ;;
*"queued-resources describe"*) describe queue ;;
*"queued-resources create"*) exit "$(next requests)" ;;
*"tpu-vm scp"*) exit "$(next copies)" ;;
*"pip install"*) exit "$(next installs)" ;;
*--on-worker*) exit "$(next statuses)" ;;
esac
"""


def run(*options, env=None):
    return subprocess.run([SCRIPT, *options], env=env, capture_output=True, text=True, timeout=60,
                          check=False)


@pytest.fixture
def pod(tmp_path):
    """Runs the script with a stand-in for gcloud; returns its end and gcloud's commands."""
    def run_on(*options, tpu=("READY",), queue=("",), statuses=(0,), max_restarts=10, copies=(0,),
               installs=(0,), requests=(0,)):
        for name, lines in (("tpu", tpu), ("queue", queue), ("statuses", statuses),
                            ("copies", copies), ("installs", installs), ("requests", requests)):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        for name, script in (("gcloud", GCLOUD), ("git", "#!/bin/sh\n")):
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(0o700)
        done = run(*options, env=os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "POLL_SECONDS": "0.01",
            "MAX_RESTARTS": str(max_restarts)})
        return done, [shlex.split(line) for line in (tmp_path / "log").read_text().splitlines()]
    return run_on


def starts(commands):
    return [words for words in commands if "--on-worker" in words[-1]]


def test_dry_run_prints_what_would_run():
    done = run(*NAMED, *REQUESTED, "--ssh-option=--tunnel-through-iap", "--prepare=mount /bucket",
               "--dry-run", "--", "--config=configs/attn.py", "--workdir=/bucket/a run")
    assert done.returncode == 0, done.stderr
    request, archive, copy, install, prepare, start = map(shlex.split, done.stdout.splitlines())
    assert request[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "pod"]
    assert {"--zone=zone-a", "--accelerator-type=v5litepod-16", "--node-id=pod", "--spot",
            "--runtime-version=v2-alpha-tpuv5-lite"} <= set(request)
    assert archive[0] == "git"
    assert copy[3:5] == ["tpu-vm", "scp"]
    assert "pod:dfgan.tar" in copy
    for words in (install, prepare, start):
        assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
        assert {"--worker=all", "--zone=zone-a", "--tunnel-through-iap"} <= set(words)
    assert shlex.split(install[-1])[-3:] == ["-r", "requirements.txt", "jax[tpu]"]
    assert prepare[-1] == "--command=cd dfgan && mount /bucket"
    assert shlex.split(start[-1].removeprefix("--command=")) == [
        "bash", "dfgan/launch/tpu_pod.sh", "--on-worker", "--config=configs/attn.py",
        "--workdir=/bucket/a run"]


@pytest.mark.parametrize(("options", "message"), [
    (["--name=pod", "--", "--config=a"], "usage: "),
    (NAMED, "usage: "),
    ([*NAMED, "--config=a"], "unknown option --config=a; main.py's come after --"),
    ([*NAMED, "--accelerator-type=a", "--"], "--accelerator-type needs --runtime-version")])
def test_wrong_options_are_told(options, message):
    done = run(*options)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(("statuses", "end", "runs"), [
    ([0], 0, 1),
    ([1, 0], 1, 1),
    ([130, 0], 130, 1),
    ([85, 85, 85, 85, 0], 0, 5),  # saved: more often than restarts after a crash
    ([85, 143, 85, 143, 85, 143, 0], 143, 6),  # 143: a signal in the evaluation, for one
    ([138], 138, 3),
    ([75, 137, 0], 0, 3),
    ([255], 255, 3)])
def test_starts_again_after_signals_and_crashes_and_not_after_errors(pod, statuses, end, runs):
    done, commands = pod(*NAMED, "--", "--config=a", statuses=statuses, max_restarts=2)
    assert done.returncode == end, done.stderr
    assert len(starts(commands)) == runs
    assert not any("queued-resources" in words for words in commands)


def test_requests_the_tpu_and_requests_it_again_after_a_preemption(pod):
    done, commands = pod(
        *NAMED, *REQUESTED, "--", "--config=a",
        # None, then the queue's; lost during main.py; the next one.
        tpu=["", "", "READY", "PREEMPTED", "PREEMPTED", "", "READY"],
        queue=["", "PROVISIONING", "SUSPENDED", "PROVISIONING"], statuses=[1, 0], max_restarts=0)
    assert done.returncode == 0, done.stderr
    of_queue = [words[3] for words in commands if words[2] == "queued-resources"]
    assert [verb for verb in of_queue if verb != "describe"] == ["create", "delete", "create"]
    assert len(starts(commands)) == 2


@pytest.mark.parametrize(("failing", "end", "runs"), [
    ({"copies": [1, 0]}, 0, 1),
    ({"installs": [1, 1, 0]}, 0, 1),  # a registry of packages that is down, for one
    ({"installs": [1]}, 1, 0),
    # The connection is gone, for gcloud's ssh as well, whose own errors have status 1.
    ({"statuses": [1, 0], "tpu": ["READY", "broken", "READY"]}, 0, 2)])
def test_what_may_pass_is_tried_again_a_limited_number_of_times(pod, failing, end, runs):
    done, commands = pod(*NAMED, "--", "--config=a", max_restarts=2, **failing)
    assert done.returncode == end, done.stderr
    assert len(starts(commands)) == runs


@pytest.mark.parametrize(("failing", "requests"), [
    ({"tpu": ["broken", "broken", "READY"], "queue": ["broken", "ACTIVE"]}, 0),
    ({"tpu": ["", "", "READY"], "queue": [""], "requests": [1, 0]}, 2)])
def test_gcloud_may_fail_while_the_script_waits(pod, failing, requests):
    """A TPU that nobody knows of is not requested, which would be an error where it is there."""
    done, commands = pod(*NAMED, *REQUESTED, "--", "--config=a", max_restarts=1, **failing)
    assert done.returncode == 0, done.stderr
    assert len(starts(commands)) == 1
    assert sum("create" in words for words in commands) == requests


@pytest.mark.parametrize("failing", [{"queue": ["broken"]}, {"queue": [""], "requests": [1]}])
def test_but_not_for_ever(pod, failing):
    done, commands = pod(*NAMED, *REQUESTED, "--", "--config=a", max_restarts=2, tpu=[""],
                         **failing)
    assert done.returncode == 1
    assert "error: gcloud failed 3 times in a row" in done.stderr
    assert not starts(commands)


@pytest.fixture
def worker(tmp_path):
    """A worker's copy of the repository, where Python is a stand-in."""
    folder = tmp_path / "dfgan"
    (folder / "launch").mkdir(parents=True)
    (folder / "venv" / "bin").mkdir(parents=True)
    shutil.copy(SCRIPT, folder / "launch")
    (folder / "main.py").touch()
    (folder / "venv" / "bin" / "python").write_text(
        "#!/usr/bin/env bash\ntrap 'echo saved; exit 85' TERM\necho \"$@\"\n"
        "for _ in {1..200}; do [[ $2 == --wait ]] && sleep 0.1; done\nexit 7\n")
    (folder / "venv" / "bin" / "python").chmod(0o700)
    return folder


def on_worker(folder, *arguments):
    return subprocess.Popen(["bash", "dfgan/launch/tpu_pod.sh", *arguments], cwd=folder.parent,
                            stdout=subprocess.PIPE, text=True)


def test_a_worker_runs_main_and_passes_on_its_status(worker):
    process = on_worker(worker, "--on-worker", "--config=a", "--workdir=a b")
    output, _ = process.communicate(timeout=30)
    assert output == "main.py --config=a --workdir=a b\n"
    assert process.returncode == 7


@pytest.mark.parametrize("later", [["--on-worker", "--config=a"], ["--stop-on-worker"]])
def test_a_worker_first_stops_what_still_runs(worker, later):
    """As after a broken connection."""
    first = on_worker(worker, "--on-worker", "--wait")
    deadline = time.monotonic() + 20
    while not (worker / "main.log").exists() or not (worker / "main.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = on_worker(worker, *later)
    second.communicate(timeout=30)
    output, _ = first.communicate(timeout=30)
    assert output.endswith("saved\n")
    assert first.returncode == 85
    assert second.returncode == (7 if "--on-worker" in later else 0)

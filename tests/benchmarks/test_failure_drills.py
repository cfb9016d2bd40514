import collections
import os
import pathlib
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import failure_drills as drills
from benchmarks.failure_drills import Bench, FailedError, Final, Launcher, Run
from configs import dfgan
from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.writers import MetricsWriter

# Stands before the few lines that take the place of main.py in a test.
PRELUDE = """
import fcntl, json, pathlib, signal, sys, time

flags = dict(flag.removeprefix("--").split("=") for flag in sys.argv[1:])
workdir = pathlib.Path(flags["workdir"])
index = int(flags.get("process_id", 0))
last_step = 8

def say(text):
    print(text, flush=True)

def fail(text, status=1):
    say(text)
    sys.exit(status)

def save(step):
    (workdir / "checkpoints" / str(step)).mkdir(parents=True)

def train(step, *, then="ready"):
    workdir.mkdir(exist_ok=True)
    say(f"DFGAN in {workdir}")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": step}) + "\\n")
    say(then)

# In short calls: a signal just before a call that waits would be heeded only after it.
def sleep():
    for _ in range(6000):
        time.sleep(0.01)

def on_sigterm(action):
    signal.signal(signal.SIGTERM, lambda number, frame: action())

def alive(process):
    return (workdir.parent / f"alive.{process}").open("a")

def other_is_alive():
    try:
        with alive(1 - index) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False

def wait_for_the_others_end():
    while not other_is_alive():
        pass
    say("ready")
    while other_is_alive():
        time.sleep(0.01)

own = alive(index)
fcntl.flock(own, fcntl.LOCK_EX)
"""


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


def case_of(bench, drill):
    case = drills.draw(drill, 0, seed=0, life_s=1.0, folder=bench.folder)
    case.folder.mkdir()
    return case


STOPS = ("on_sigterm(lambda: (save({saved}), "
         "fail('Stopped by SIGTERM at step 7, which is saved; …', {status})))\ntrain(7)\nsleep()")
# Ready once each has seen the other alive, and not before.
NOTICES = "train(7, then='')\nwait_for_the_others_end()\n"
BOTH_STOP = ("def stop(status=143):\n    if index == 0:\n        save(7)\n"
             "        say('Stopped by SIGTERM at step 7, which is saved; …')\n"
             "    sys.exit(status)\non_sigterm(stop)\n" + NOTICES + "stop({status})")
GONE = "error: process 1 of this run is lost"
SECOND = "if (workdir / 'lock').exists():\n    fail({error!r}.format(workdir))\n"
LOCKED = ("workdir.mkdir()\n(workdir / 'lock').touch()\nsay('ready')\n"
          "while not (workdir.parent / 'second.0.log').exists():\n    time.sleep(0.01)\n"
          "time.sleep(0.3)")
CASES = [
    ("sigkill", "train(7)\nsleep()", "killed", None),
    ("sigkill", "pass", "had ended before", None),
    ("sigkill", "fail('error: at step 3, the loss is nan')", None, "status 1: error: at step 3"),
    ("sigterm", STOPS.format(saved=7, status=143), "saved, status 143", None),
    ("sigterm", STOPS.format(saved=7, status=0), None, r"status \[0\]; expected 143"),
    ("sigterm", STOPS.format(saved=6, status=143), None, "checkpoint is of step 6"),
    ("sigterm", "on_sigterm(lambda: sys.exit(143))\ntrain(7)\nsleep()", None, "saved nothing"),
    ("sigterm", "train(7)\nsleep()", None, r"status \[-15\] and saved nothing"),
    ("sigterm", "say('ready')\nsleep()", "ended by it before training", None),
    ("sigterm", "train(8)\nsay('training: 8/8 steps')\nsleep()", "ended by it after training",
     None),
    ("sigterm_one_of_two", BOTH_STOP.format(status=143), "saved, status 143", None),
    ("sigterm_one_of_two", BOTH_STOP.format(status=1), None, r"143.*expected 143"),
    ("sigterm_one_of_two", "on_sigterm(lambda: fail('', 143))\n" + NOTICES + "fail('', 1)", None,
     "saved nothing"),
    ("sigkill_one_of_two", NOTICES + f"fail({GONE!r})", "the other told and ended", None),
    ("sigkill_one_of_two", NOTICES + f"fail({GONE!r}, 0)", None, "ended with status 0"),
    ("sigkill_one_of_two", NOTICES + f"say({GONE!r})\nfail({GONE!r})", None, "told 2 errors"),
    ("sigkill_one_of_two", NOTICES + f"say({GONE!r})\nraise OSError", None, "told a traceback"),
    ("sigkill_one_of_two", NOTICES + "fail('error: timeout')", None, "expected .*process"),
    ("two_runs", SECOND.format(error="error: {} is in use") + LOCKED, "second refused", None),
    ("two_runs", SECOND.format(error="error: in use") + LOCKED, None, "expected '.*run.*in use'"),
    ("two_runs", "if (workdir.parent / 'second.0.log').exists():\n    sys.exit()\n" + LOCKED, None,
     "both trained"),
]


@pytest.mark.parametrize(("drill", "program", "words", "failure"), CASES)
def test_a_drill_tells_what_is_expected_from_what_is_not(bench, drill, program, words, failure):
    made = bench(program)
    case = case_of(made, drill)
    if failure is None:
        assert drills.DRILLS[drill][0](case, made).words == words
    else:
        with pytest.raises(FailedError, match=failure):
            drills.DRILLS[drill][0](case, made)


@pytest.mark.parametrize(("drill", "failure"), [
    ("sigterm", "^still ran after 0 s"), ("sigkill_one_of_two", r"process \d still ran after 0 s")])
def test_one_that_does_not_end_in_time_is_ended(bench, monkeypatch, drill, failure):
    monkeypatch.setattr(drills, "GRACE_S", 0.3)
    monkeypatch.setattr(drills, "PEER_LIMIT_S", 0.3)
    made = bench("on_sigterm(lambda: None)\ntrain(7)\nsleep()")
    with pytest.raises(FailedError, match=failure):
        drills.DRILLS[drill][0](case_of(made, drill), made)


@pytest.mark.parametrize(("program", "saved", "failure"), [
    ("say('Going on from step 4')", 4, None), ("pass", None, None),
    ("say('Going on from step 4')", 6, "from step 4, though step 6 was saved"),
    ("pass", 6, "from step 0, though step 6 was saved"),
    ("fail('error: damaged')", 4, "status 1: error: damaged")])
def test_the_next_start_goes_on_from_what_is_saved(bench, program, saved, failure):
    made = bench(program)
    case = case_of(made, "sigkill")
    case.saved = saved
    if failure is None:
        assert drills.start_again(case, made, 1) > 0
    else:
        with pytest.raises(FailedError, match=failure):
            drills.start_again(case, made, 1)


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
    with pytest.raises(drills.InterruptedDrillError):
        made.start(case.workdir, case.folder, "again")


def test_moments_are_repeatable_and_spread_over_the_whole_life(tmp_path):
    def moments(drill, seed=0):
        return [drills.draw(drill, index, seed=seed, life_s=10.0, folder=tmp_path).moment_s
                for index in range(200)]

    assert moments("sigterm") == moments("sigterm")
    assert len({*moments("sigterm"), *moments("sigkill"), *moments("sigkill", seed=1)}) == 600
    counts, _ = np.histogram(moments("sigterm"), bins=4, range=(0, 10))
    assert counts.sum() == 200
    # 50 expected, with a standard deviation of 6.
    assert counts.min() > 26
    assert counts.max() < 74


def test_damage_is_one_bit_or_a_cut_of_one_file_of_any_kind(tmp_path):
    contents = {"state/d/big": bytes(range(256)) * 40, "state/process_0/d/small": bytes(2560),
                "state/manifest.ocdbt": b"index", "meta/metadata": b"{}", "metrics/metrics": b"[0]",
                "commit": b"x", "empty": b""}
    hit: collections.Counter = collections.Counter()
    flipped = 0
    for seed in range(120):
        for name, content in contents.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        words = drills.damage(tmp_path, np.random.default_rng(seed))
        after = {name: (tmp_path / name).read_bytes() for name in contents}
        (name,) = [name for name in contents if after[name] != contents[name]]
        assert words.startswith(f"{name}: ")
        old, new = contents[name], after[name]
        flipped += len(new) == len(old)
        if len(new) == len(old):
            assert sum((a ^ b).bit_count() for a, b in zip(old, new, strict=True)) == 1
        else:
            assert old.startswith(new)
        hit[name] += 1
    assert hit.keys() == contents.keys() - {"empty"}
    # A fifth of 120 each, with a standard deviation of 4.4; four fifths of it the larger.
    assert 7 < hit["state/d/big"] + hit["state/process_0/d/small"] < 42
    assert hit["state/d/big"] > hit["state/process_0/d/small"]
    assert 7 < hit["commit"] < 42
    assert 38 < flipped < 82


@pytest.fixture(scope="module")
def small():
    """The configuration of a small run, and a state of it."""
    config = dfgan.get_config()
    config.generator.width = config.discriminator.width = 2
    config.discriminators = "none"
    shapes = RunOptions.of(config).training(total_steps=1).state_shapes()
    return config, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)


def final_of(workdir, config, state, *, step=3):
    meta = {"step": step, "epoch": 1, "config": config.to_dict()}
    with Checkpoints(workdir) as kept:
        kept.save(state, meta)
        kept.wait()
    with MetricsWriter(workdir, step=0) as writer:
        writer.write("train", step=step, epoch=1, metrics={"loss": 0.0})
    (workdir / "results.json").write_text('{"protocols": {"full_range": []}}')
    return drills.read_final(workdir)


def test_one_bit_of_one_parameter_is_a_difference(small, tmp_path):
    config, state = small
    expected = final_of(tmp_path / "a", config, state)
    assert len(expected.state) == len(jax.tree.leaves(state))
    same = final_of(tmp_path / "b", config, state)
    assert drills.state_problem(same, expected) is None
    assert drills.rows_problem(same.rows, expected.rows) is None

    kernel = state.generator["params"]["outc"]["kernel"].copy()
    kernel.view(np.uint32).flat[0] ^= 1
    params = {**state.generator["params"], "outc": {
        **state.generator["params"]["outc"], "kernel": kernel}}
    other = state.replace(generator={**state.generator, "params": params})
    problem = drills.state_problem(final_of(tmp_path / "c", config, other), expected)
    assert problem.startswith(f"1 of {len(expected.state)} arrays of the last state differ, the ")
    assert "outc" in problem
    problem = drills.state_problem(final_of(tmp_path / "d", config, state, step=2), expected)
    assert problem == "the last checkpoint is of step 2; expected 3"


def test_signs_of_zeros_types_and_leaves_that_are_missing_differ():
    a = {"x": np.zeros(2), "y": np.zeros(2)}
    assert drills.differing_leaves(a, {"x": np.zeros(2), "y": -np.zeros(2)}) == ["y"]
    assert drills.differing_leaves(a, {"x": np.zeros(2), "y": np.zeros(2, np.int64)}) == ["y"]
    assert drills.differing_leaves(a, {"x": np.zeros(2)}) == ["y"]
    assert drills.differing_leaves({"x": np.full(1, np.nan)}, {"x": np.full(1, np.nan)}) == []


def test_rows_are_there_once_and_in_order():
    rows = [("train", 1), ("train", 2), ("valid", 2)]
    assert drills.rows_problem(rows, rows) is None
    assert drills.rows_problem([*rows[:1], *rows], rows) == "metrics.jsonl: too many: train 1"
    assert drills.rows_problem(rows[1:], rows) == "metrics.jsonl: missing: train 1"
    assert drills.rows_problem(rows[::-1], rows) == "metrics.jsonl: rows in another order"


def test_no_final_without_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        drills.read_final(tmp_path)


def test_a_moment_that_failed_is_kept_and_told(bench, tmp_path, monkeypatch):
    """The command is started again, and what it leaves compared, all the same."""
    finals = iter([Final(8, {"x": np.ones(1)}, [], {}), Final(8, {"x": np.zeros(1)}, [], {})])
    monkeypatch.setattr(drills, "read_final", lambda workdir: next(finals))
    expected = Final(8, {"x": np.ones(1)}, [], {})
    made = bench("if (workdir / 'metrics.jsonl').exists():\n    sys.exit()\n"
                 "on_sigterm(lambda: sys.exit(143))\ntrain(7)\nsleep()")
    failures = tmp_path / "failures"
    for identical, drill, problems in ((True, "sigterm", 1), (False, "sigkill", 1)):
        case = drills.draw(drill, 0, seed=0, life_s=1.0, folder=tmp_path)
        row = drills.try_moment(case, made, expected, failures=failures)
        assert row["identical"] == identical
        assert len(row["problems"]) == problems
        assert row["phase"] == drills.TRAINING
        assert not case.folder.exists()
        kept = failures / f"{drill}_00"
        assert row["kept_in"] == str(kept)
        assert (kept / "run" / "metrics.jsonl").exists()
        assert {path.name for path in kept.glob("*.log")} == {"disturbed.0.log", "again.0.log"}


def test_a_run_that_ends_before_its_moment_is_disturbed_at_an_earlier_one(bench, tmp_path,
                                                                          monkeypatch):
    expected = Final(8, {}, [], {})
    monkeypatch.setattr(drills, "read_final", lambda workdir: expected)
    made = bench("first = workdir.parent / 'first'\nif not first.exists():\n    first.touch()\n"
                 "    workdir.mkdir()\n    sys.exit()\n"
                 "if (workdir / 'metrics.jsonl').exists():\n    sys.exit()\ntrain(7)\nsleep()")
    case = drills.draw("sigkill", 0, seed=0, life_s=1.0, folder=tmp_path)
    drawn_s = case.moment_s
    row = drills.try_moment(case, made, expected, failures=tmp_path / "failures")
    assert (row["outcome"], row["problems"]) == ("killed", [])
    assert 0 < row["moment_s"] < drawn_s


def row(drill, outcome, *, phase="training", end_s=None, identical=True, same_scores=True,
        problems=()):
    return {"drill": drill, "outcome": outcome, "phase": phase, "end_s": end_s,
            "identical": identical, "same_scores": same_scores, "problems": list(problems)}


def test_table():
    report = {
        "created": "2026-11-23T00:00:00", "seed": 3, "jobs": 2, "seconds": 65.0,
        "life_s": {"1": 7.04, "2": 9.0}, "not_possible": {"full_disk": "no mount"},
        "machine": {"cores": 2, "jax": "0.12", "python": "3.13"},
        "moments": [row("sigterm", "saved", end_s=1.0), row("sigterm", "saved", end_s=3.0),
                    row("sigterm", "failed", phase="starting", identical=False, problems=["x"]),
                    row("sigkill", "killed", same_scores=False)]}
    assert drills.table(report).splitlines() == [
        "| drill | moments | ended as expected | final parameters identical | slowest end | "
        "remarks |",
        "|---|---|---|---|---|---|",
        "| `sigkill` | 1 | 1 | 1 | – | 1 × killed; while 1 × training; 1 × another best epoch |",
        "| `sigterm` | 3 | 2 | 2 | 3.0 s (median 2.0 s) | 2 × saved, 1 × failed; while "
        "1 × starting, 2 × training |",
        "| `full_disk` | 0 | – | – | – | not possible here: no mount |",
        "",
        "2026-11-23, seed 3, 2 cores, JAX 0.12, Python 3.13. An undisturbed run lasts 7.0 s with "
        "1 process, 9.0 s with 2 processes; all drills took 1 min 05 s, 2 moments at a time."]


def test_the_table_takes_the_place_between_its_marks():
    text = "a\n<!-- drills -->\nold\n\nold\n<!-- /drills -->\nb\n"
    assert drills.with_table(text, "new", name="x") == (
        "a\n<!-- drills -->\nnew\n<!-- /drills -->\nb\n")
    with pytest.raises(InputError, match="x: expected the lines"):
        drills.with_table("a\n<!-- drills -->\n", "new", name="x")

import collections

import numpy as np
import pytest

from drills import disturbances
from drills.disturbances import DRILLS, damage
from drills.runs import FailedError
from tests.drills.stand_in import case_of

STOPS = ("on_sigterm(lambda: (save({saved}), "
         "fail('Stopped by SIGTERM at step 7, which is saved; …', {status})))\ntrain(7)\nsleep()")
# Ready once each has seen the other alive, and not before.
NOTICES = "train(7, then='')\nwait_for_the_others_end()\n"
BOTH_STOP = ("def stop(status=85):\n    if index == 0:\n        save(7)\n"
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
    ("sigterm", STOPS.format(saved=7, status=85), "saved, status 85", None),
    ("sigterm", STOPS.format(saved=7, status=0), None, r"status \[0\]; expected 85"),
    ("sigterm", STOPS.format(saved=6, status=85), None, "checkpoint is of step 6"),
    ("sigterm", "on_sigterm(lambda: sys.exit(85))\ntrain(7)\nsleep()", None, "saved nothing"),
    ("sigterm", "train(7)\nsleep()", None, r"status \[-15\] and saved nothing"),
    ("sigterm", "say('ready')\nsleep()", "ended by it before training", None),
    ("sigterm", "train(8)\nsay('training: 8/8 steps')\nsleep()", "ended by it after training",
     None),
    ("sigterm_one_of_two", BOTH_STOP.format(status=85), "saved, status 85", None),
    ("sigterm_one_of_two", BOTH_STOP.format(status=1), None, r"85.*expected 85"),
    ("sigterm_one_of_two", "on_sigterm(lambda: fail('', 85))\n" + NOTICES + "fail('', 1)", None,
     "saved nothing"),
    ("sigkill_one_of_two", NOTICES + f"fail({GONE!r})",
     "the other reported the loss and ended", None),
    ("sigkill_one_of_two", NOTICES + f"fail({GONE!r}, 0)", None, "ended with status 0"),
    ("sigkill_one_of_two", NOTICES + f"say({GONE!r})\nfail({GONE!r})", None, "printed 2 errors"),
    ("sigkill_one_of_two", NOTICES + f"say({GONE!r})\nraise OSError", None, "printed a traceback"),
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
        assert DRILLS[drill][0](case, made).words == words
    else:
        with pytest.raises(FailedError, match=failure):
            DRILLS[drill][0](case, made)


@pytest.mark.parametrize(("drill", "failure"), [
    ("sigterm", "^still ran after 0 s"), ("sigkill_one_of_two", r"process \d still ran after 0 s")])
def test_one_that_does_not_end_in_time_is_ended(bench, monkeypatch, drill, failure):
    monkeypatch.setattr(disturbances, "GRACE_S", 0.3)
    monkeypatch.setattr(disturbances, "PEER_LIMIT_S", 0.3)
    made = bench("on_sigterm(lambda: None)\ntrain(7)\nsleep()")
    with pytest.raises(FailedError, match=failure):
        DRILLS[drill][0](case_of(made, drill), made)


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
        words = damage(tmp_path, np.random.default_rng(seed))
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

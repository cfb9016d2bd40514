import numpy as np
import pytest

from drills import moments
from drills.moments import draw, start_again, try_moment
from drills.runs import FailedError
from drills.workdir import TRAINING, Final
from tests.drills.stand_in import case_of


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
        assert start_again(case, made, 1) > 0
    else:
        with pytest.raises(FailedError, match=failure):
            start_again(case, made, 1)


def test_moments_are_repeatable_and_spread_over_the_whole_life(tmp_path):
    def moments(drill, seed=0):
        return [draw(drill, index, seed=seed, life_s=10.0, folder=tmp_path).moment_s
                for index in range(200)]

    assert moments("sigterm") == moments("sigterm")
    assert len({*moments("sigterm"), *moments("sigkill"), *moments("sigkill", seed=1)}) == 600
    counts, _ = np.histogram(moments("sigterm"), bins=4, range=(0, 10))
    assert counts.sum() == 200
    # 50 expected, with a standard deviation of 6.
    assert counts.min() > 26
    assert counts.max() < 74


def test_a_moment_that_failed_is_kept_and_told(bench, tmp_path, monkeypatch):
    """The command is started again, and what it leaves compared, all the same."""
    finals = iter([Final(8, {"x": np.ones(1)}, [], {}), Final(8, {"x": np.zeros(1)}, [], {})])
    monkeypatch.setattr(moments, "read_final", lambda workdir: next(finals))
    expected = Final(8, {"x": np.ones(1)}, [], {})
    made = bench("if (workdir / 'metrics.jsonl').exists():\n    sys.exit()\n"
                 "on_sigterm(lambda: sys.exit(85))\ntrain(7)\nsleep()")
    failures = tmp_path / "failures"
    for identical, drill, problems in ((True, "sigterm", 1), (False, "sigkill", 1)):
        case = draw(drill, 0, seed=0, life_s=1.0, folder=tmp_path)
        row = try_moment(case, made, expected, failures=failures)
        assert row["identical"] == identical
        assert len(row["problems"]) == problems
        assert row["phase"] == TRAINING
        assert not case.folder.exists()
        kept = failures / f"{drill}_00"
        assert row["kept_in"] == str(kept)
        assert (kept / "run" / "metrics.jsonl").exists()
        assert {path.name for path in kept.glob("*.log")} == {"disturbed.0.log", "again.0.log"}


def test_a_run_that_ends_before_its_moment_is_disturbed_at_an_earlier_one(bench, tmp_path,
                                                                          monkeypatch):
    expected = Final(8, {}, [], {})
    monkeypatch.setattr(moments, "read_final", lambda workdir: expected)
    made = bench("first = workdir.parent / 'first'\nif not first.exists():\n    first.touch()\n"
                 "    workdir.mkdir()\n    sys.exit()\n"
                 "if (workdir / 'metrics.jsonl').exists():\n    sys.exit()\ntrain(7)\nsleep()")
    case = draw("sigkill", 0, seed=0, life_s=1.0, folder=tmp_path)
    drawn_s = case.moment_s
    row = try_moment(case, made, expected, failures=tmp_path / "failures")
    assert (row["outcome"], row["problems"]) == ("killed", [])
    assert 0 < row["moment_s"] < drawn_s

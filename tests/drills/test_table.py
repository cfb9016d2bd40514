import pytest

from dfgan_jax.support.errors import InputError
from drills.table import table, with_table


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
    assert table(report).splitlines() == [
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
    assert with_table(text, "new", name="x") == (
        "a\n<!-- drills -->\nnew\n<!-- /drills -->\nb\n")
    with pytest.raises(InputError, match="x: expected the lines"):
        with_table("a\n<!-- drills -->\n", "new", name="x")

import jax
import numpy as np
import pytest

from configs import dfgan
from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.writers import MetricsWriter
from drills.workdir import differing_leaves, read_final, rows_problem, state_problem


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
    return read_final(workdir)


def test_one_bit_of_one_parameter_is_a_difference(small, tmp_path):
    config, state = small
    expected = final_of(tmp_path / "a", config, state)
    assert len(expected.state) == len(jax.tree.leaves(state))
    same = final_of(tmp_path / "b", config, state)
    assert state_problem(same, expected) is None
    assert rows_problem(same.rows, expected.rows) is None

    kernel = state.generator["params"]["outc"]["kernel"].copy()
    kernel.view(np.uint32).flat[0] ^= 1
    params = {**state.generator["params"], "outc": {
        **state.generator["params"]["outc"], "kernel": kernel}}
    other = state.replace(generator={**state.generator, "params": params})
    problem = state_problem(final_of(tmp_path / "c", config, other), expected)
    assert problem.startswith(f"1 of {len(expected.state)} arrays of the last state differ, the ")
    assert "outc" in problem
    problem = state_problem(final_of(tmp_path / "d", config, state, step=2), expected)
    assert problem == "the last checkpoint is of step 2; expected 3"


def test_signs_of_zeros_types_and_leaves_that_are_missing_differ():
    a = {"x": np.zeros(2), "y": np.zeros(2)}
    assert differing_leaves(a, {"x": np.zeros(2), "y": -np.zeros(2)}) == ["y"]
    assert differing_leaves(a, {"x": np.zeros(2), "y": np.zeros(2, np.int64)}) == ["y"]
    assert differing_leaves(a, {"x": np.zeros(2)}) == ["y"]
    assert differing_leaves({"x": np.full(1, np.nan)}, {"x": np.full(1, np.nan)}) == []


def test_rows_are_there_once_and_in_order():
    rows = [("train", 1), ("train", 2), ("valid", 2)]
    assert rows_problem(rows, rows) is None
    assert rows_problem([*rows[:1], *rows], rows) == "metrics.jsonl: too many: train 1"
    assert rows_problem(rows[1:], rows) == "metrics.jsonl: missing: train 1"
    assert rows_problem(rows[::-1], rows) == "metrics.jsonl: rows in another order"


def test_no_final_without_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        read_final(tmp_path)

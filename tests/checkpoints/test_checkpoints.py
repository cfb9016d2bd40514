import errno
import functools
import json
import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dfgan_jax.checkpoints import folder as checkpoint_folder
from dfgan_jax.checkpoints import run
from dfgan_jax.checkpoints.folder import (
    alone,
    locate,
    read_meta,
    restore,
    restore_generator,
    workdir_of,
)
from dfgan_jax.checkpoints.run import Checkpoints, set_aside_damaged
from dfgan_jax.support.errors import DivergenceError, InputError
from dfgan_jax.training.state import TrainState
from tests.cli import command


def state(step, width=3):
    return TrainState(
        step=jnp.int32(step), key=jnp.array([1, 2], jnp.uint32),
        generator={"params": {"kernel": jnp.full((width,), step, jnp.float32)},
                   "batch_stats": {"mean": jnp.arange(2.0)}},
        generator_opt_state=({"count": jnp.int32(step)}, ()),
        discriminators={"image": {"params": {"kernel": jnp.ones(2)}}},
        discriminator_opt_state=({"count": jnp.int32(step)},))


def save(kept, step, score=None):
    kept.save(state(step), {"step": step, "epoch": 1, "config": {"name": "x"}}, score=score)
    kept.wait()


def test_everything_comes_back(tmp_path):
    with Checkpoints(tmp_path) as kept:
        assert kept.latest() is None
        save(kept, 5, score=1.0)
        restored = restore(kept.latest(), state(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state(5))
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))
    assert {x.dtype for x in jax.tree.leaves(restored.key)} == {np.dtype(np.uint32)}


def test_keeps_the_latest_two_and_the_best(tmp_path):
    with Checkpoints(tmp_path) as kept:
        for step, score in [(1, 0.5), (2, 0.9), (3, None), (4, 0.7), (5, None)]:
            save(kept, step, score)
            assert kept.latest().name == str(step)
        assert kept.best().name == "2"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    with Checkpoints(tmp_path) as again:
        assert (again.latest().name, again.best().name) == ("5", "2")


def test_a_score_that_comes_later_replaces_the_checkpoint_of_its_step(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1, 0.5)
        kept.save(state(2), {"step": 2, "epoch": 1, "config": {}})
        kept.save(state(2), {"step": 2, "epoch": 1, "config": {}}, score=0.9)
        kept.wait()
        assert (kept.latest().name, kept.best().name) == ("2", "2")
        assert read_meta(kept.latest())["score"] == 0.9
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


@pytest.mark.parametrize("broken", ["score", "state"])
def test_what_is_not_finite_is_never_saved(tmp_path, broken):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1, 10.0)
        bad = state(2)
        if broken == "state":
            bad.generator["params"]["kernel"] = jnp.array([1.0, jnp.nan, 1.0])
        with pytest.raises(DivergenceError, match="at step 2"):
            kept.save(bad, {"step": 2, "epoch": 1, "config": {}},
                      score=float("nan") if broken == "score" else None)
        assert (kept.latest().name, kept.best().name) == ("1", "1")


def test_saving_copies_what_the_next_step_may_overwrite(tmp_path):
    donate = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as kept:
        current = state(5)
        kept.save(current, {"step": 5, "epoch": 1, "config": {}})
        for _ in range(3):
            current = donate(current)
        kept.wait()
        restored = restore(kept.latest(), state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, state(5))


def test_locates_the_checkpoint_that_is_meant(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1, 0.9)
        save(kept, 2, 0.5)
    folder = tmp_path / "checkpoints"
    assert locate(tmp_path) == folder / "1"
    assert locate(folder) == folder / "1"
    assert locate(folder / "2") == folder / "2"
    assert workdir_of(folder / "2") == tmp_path
    assert read_meta(folder / "2")["step"] == 2


def test_the_best_of_an_earlier_version_is_found(tmp_path):
    """Its metadata have neither score nor digests; the score is in a file of its own."""
    with Checkpoints(tmp_path) as kept:
        for step, score in [(1, 0.5), (2, 0.9), (3, 0.7), (4, None)]:
            save(kept, step, score)
    for path in (tmp_path / "checkpoints").glob("*/meta/metadata"):
        meta = json.loads(path.read_text())
        path.write_text(json.dumps({name: meta[name] for name in ("step", "epoch", "config")}))
    assert locate(tmp_path) == tmp_path / "checkpoints" / "2"


def test_restores_a_generator_alone(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 4)
        restored = restore_generator(kept.latest(), state(0).generator)
    jax.tree.map(np.testing.assert_array_equal, restored, state(4).generator)


def test_reading_logs_no_warning_and_other_warnings_stay(tmp_path):
    """In a process of its own, where absl's logger writes to stderr as for any user."""
    with Checkpoints(tmp_path) as kept:
        save(kept, 4)
    code = ("import sys, logging, jax, numpy as np\n"
            "from dfgan_jax.checkpoints.folder import locate, saved_tree, restore_generator\n"
            "folder = locate(sys.argv[1])\n"
            "restore_generator(folder, jax.tree.map(\n"
            "    lambda x: np.zeros(x.shape, x.dtype), saved_tree(folder)['generator']))\n"
            "logging.getLogger('absl').warning('another')\n")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False,
                          cwd=command.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "WARNING:absl:another\n")


def test_another_tree_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 4)
        folder = kept.latest()
    with pytest.raises(InputError, match=r"generator/params/kernel: \(3,\) in the checkpoint, "
                                         r"\(4,\) in the model"):
        restore(folder, state(0, width=4))
    more = {"params": {"kernel": jnp.zeros(3), "bias": jnp.zeros(1)},
            "batch_stats": {"mean": jnp.zeros(2)}}
    with pytest.raises(InputError, match=r"generator/params/bias: absent in the checkpoint"):
        restore_generator(folder, more)


def test_absent_empty_and_damaged_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="no checkpoint here"):
        locate(tmp_path / "absent")
    with Checkpoints(tmp_path):
        pass
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        locate(tmp_path)
    with Checkpoints(tmp_path) as kept:
        save(kept, 4)
        folder = kept.latest()
    for file in (folder / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(InputError, match=str(folder)):
        restore(folder, state(0))
    (folder / "meta" / "metadata").write_text("{")
    with pytest.raises(InputError, match="metadata cannot be read"):
        read_meta(folder)


def test_shapes_alone_do_as_a_target(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 4)
        shapes = jax.eval_shape(functools.partial(state, 0))
        restored = restore(kept.latest(), shapes)
    assert int(restored.step) == 4


def damaged(folder, how):
    """Damages a checkpoint: its arrays are cut or have a bit flipped, or its JSON is changed."""
    if how in ("cut", "flipped"):
        path = max((p for p in (folder / "state").rglob("*") if p.is_file()),
                   key=lambda p: p.stat().st_size)
        content = bytearray(path.read_bytes())
        if how == "cut":
            del content[len(content) // 2:]
        else:
            content[len(content) // 2] ^= 4
        path.write_bytes(content)
    else:
        path = folder / {"score": "metrics/metrics"}.get(how, "meta/metadata")
        for old, new in (("0.5", "0.6"), ('"step": 2', '"step": 3'), ('"epoch": 1', '"epoch": 7')):
            if how in old or how == "score":
                path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("how", ["cut", "flipped", "score", "step", "epoch"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_the_latest(tmp_path, how):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1, 0.2)
        save(kept, 2, 0.5)
    assert set_aside_damaged(tmp_path) == []
    damaged(tmp_path / "checkpoints" / "2", how)
    [line] = set_aside_damaged(tmp_path)
    assert line.startswith(str(tmp_path / "checkpoints" / "2"))
    assert line.endswith(f"set aside as {tmp_path / 'damaged' / '2'}")
    assert (tmp_path / "damaged" / "2").is_dir()
    with Checkpoints(tmp_path) as kept:
        assert (kept.latest().name, kept.best().name) == ("1", "1")
        restored = restore(kept.latest(), state(0))
        save(kept, 2, 0.7)  # as the run does when it comes there again
    damaged(tmp_path / "checkpoints" / "2", "cut")
    assert len(set_aside_damaged(tmp_path)) == 1
    assert {p.name for p in (tmp_path / "damaged").iterdir()} == {"2", "2.again"}
    jax.tree.map(np.testing.assert_array_equal, restored, state(1))


@pytest.mark.parametrize("file", ["meta/metadata", "metrics/metrics", "state/_METADATA",
                                  "state/manifest.ocdbt"])
@pytest.mark.parametrize("steps", [(1,), (1, 2)])
def test_a_checkpoint_that_the_disk_refuses_to_read_stays(tmp_path, file, steps):
    """A link to itself, which neither Python nor tensorstore can open, is such a disk."""
    with Checkpoints(tmp_path) as kept:
        for step in steps:
            save(kept, step, 0.5)
    path = tmp_path / "checkpoints" / "1" / file
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(InputError, match=r"/checkpoints/1: cannot be read now \(.*symbolic links"):
        set_aside_damaged(tmp_path)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == set(map(str, steps))


def test_what_cannot_be_read_for_a_moment_stays(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1)
    errors = [ValueError(os.strerror(errno.EIO))]

    def check(folder):
        if errors:
            raise errors.pop()

    monkeypatch.setattr(run, "check_sound", check)
    assert set_aside_damaged(tmp_path) == []
    assert errors == []


def test_a_checkpoint_whose_deletion_was_killed_is_set_aside(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1)
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "meta")
    [line] = set_aside_damaged(tmp_path)
    assert "its metadata cannot be read" in line


def test_where_none_of_several_can_be_read_all_stay(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1)
        save(kept, 2)
    for step in "12":
        damaged(tmp_path / "checkpoints" / step, "cut")
    with pytest.raises(InputError, match=r"Remove .*/checkpoints to start anew"):
        set_aside_damaged(tmp_path)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


def test_changed_weights_are_refused(tmp_path):
    """Changed so that every file is sound: what counts is what was saved."""
    with Checkpoints(tmp_path) as kept:
        save(kept, 1)
        save(kept, 2)
    first, second = (tmp_path / "checkpoints" / step for step in "12")
    (second / "state").rename(second / "other")
    (first / "state").rename(second / "state")
    with pytest.raises(InputError, match=r"damaged \(the SHA-256 of its generator"):
        restore_generator(second, state(0).generator)


def test_a_checkpoint_under_the_name_of_another_step_is_set_aside(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1)
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "checkpoints" / "2")
    [line] = set_aside_damaged(tmp_path)
    assert "its metadata name step 1" in line


def test_what_a_killed_save_left_is_removed_and_is_no_damage(tmp_path):
    left = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp" / "state"
    left.mkdir(parents=True)
    assert set_aside_damaged(tmp_path) == []
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    ("metrics/metrics", "0.5", "9.5", "its score has changed"),
    ("metrics/metrics", "score", "scora", "its score cannot be read"),
    ("meta/metadata", '"epoch": 1', '"epoch": 7', "its metadata have changed")])
def test_a_damaged_checkpoint_that_could_be_the_best_is_told(tmp_path, file, old, new, message):
    with Checkpoints(tmp_path) as kept:
        for step, score in [(1, 0.5), (2, 0.2), (3, 0.1)]:
            save(kept, step, score)
    path = tmp_path / "checkpoints" / "1" / file
    path.write_text(path.read_text().replace(old, new))
    other = tmp_path / "checkpoints" / "3"
    with pytest.raises(InputError, match=f"{message}.*give its folder, such as {other}"):
        locate(tmp_path)
    assert locate(other) == other


def test_a_checkpoint_that_is_half_deleted_is_left_out_while_another_is_whole(tmp_path, capsys):
    message = "its metadata cannot be read"
    with Checkpoints(tmp_path) as kept:
        for step, score in [(1, 0.5), (2, 0.2), (3, 0.1)]:
            save(kept, step, score)
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "meta")
    assert locate(tmp_path) == tmp_path / "checkpoints" / "2"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'checkpoints' / '1'}: ")
    assert message in line
    assert line.endswith(": left out")
    for step in "23":
        shutil.rmtree(tmp_path / "checkpoints" / step)
    with pytest.raises(InputError, match=message):
        locate(tmp_path)


def test_what_a_run_deletes_meanwhile_is_left_out_in_silence(tmp_path, capsys, monkeypatch):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1, 0.2)
    left, gone = (tmp_path / "checkpoints" / step for step in "12")
    monkeypatch.setattr(checkpoint_folder, "step_folders", lambda workdir: [gone, left])
    assert locate(tmp_path) == left
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(checkpoint_folder, "step_folders", lambda workdir: [gone])
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        locate(tmp_path)


def test_what_was_read_can_be_saved_again(tmp_path):
    with Checkpoints(tmp_path) as kept:
        save(kept, 1)
        kept.save(state(2), {**read_meta(kept.latest()), "step": 2})
        kept.wait()
        assert read_meta(kept.latest())["step"] == 2
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()  # that a run is writing
    assert locate(tmp_path).name == "2"
    assert set_aside_damaged(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_told_by_the_folder(tmp_path, monkeypatch, number):
    def full(*_, **__):
        raise ValueError(f"pages of {os.strerror(number)}, and more")

    with Checkpoints(tmp_path) as kept:
        monkeypatch.setattr(kept._manager, "save", full)
        with pytest.raises(OSError, match=(
                rf"^\[Errno {number}\] {os.strerror(number)}: '.*/checkpoints'$")):
            save(kept, 1)


def test_orbax_warning_of_missing_metadata_is_dropped_at_every_moment(caplog):
    """Also between nested checkpointers, and outside of any."""
    for _ in range(2):
        with alone(ocp.JsonCheckpointHandler()), alone(ocp.JsonCheckpointHandler()):
            pass
        logging.getLogger("absl").warning("Metadata file does not exist: %s", "x")
    logging.getLogger("absl").warning("another warning")
    assert [record.getMessage() for record in caplog.records] == ["another warning"]

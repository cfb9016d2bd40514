import ml_collections
import pytest

from configs import attn, redcnn
from dfgan_jax.cli import evaluate
from dfgan_jax.cli.compared import model_of
from dfgan_jax.cli.identity import claim_workdir
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.evaluation.rows import Row, model_rows
from dfgan_jax.support.errors import InputError
from tests.cli import command
from tests.cli.untrained import untrained


def test_a_missing_checkpoint_is_told_before_the_data_are_read(tmp_path):
    config = ml_collections.ConfigDict(attn.get_config())
    config.data.test = config.data.valid = str(tmp_path / "absent.npy")
    with pytest.raises(InputError, match="no checkpoint here"):
        evaluate.run(config, workdir=tmp_path / "out", checkpoint_paths=[str(tmp_path)])
    assert not (tmp_path / "out").exists()


def test_a_training_run_keeps_its_results(tmp_path):
    config = attn.get_config()
    claim_workdir(tmp_path, RunOptions.of(config))
    with pytest.raises(InputError, match="belongs to a training run"):
        evaluate.run(config, workdir=tmp_path, checkpoint_paths=[str(tmp_path)])


def test_a_workdir_that_cannot_be_written_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"out: is no folder; choose another output"):
        evaluate.run(attn.get_config(), workdir=tmp_path / "out",
                     checkpoint_paths=[str(tmp_path / "absent")])


def test_settings_are_further_rows_of_each_checkpoint(tmp_path, monkeypatch):
    for name, seed in (("a", 1), ("b", 2)):
        untrained(tmp_path / name, redcnn, discriminators="none", seed=seed)
    config = redcnn.get_config()
    config.evaluation.baselines, config.evaluation.physics = "", False
    config.simulation.test_slices, config.data.size = 1, 64
    config.data.cache_dir = str(tmp_path / "cache")
    measured: dict[str, Row] = {}
    monkeypatch.setattr(evaluate, "compare", lambda options, *, denoisers, **others:
                        measured.update(model_rows([model_of(each) for each in denoisers])))
    evaluate.run(config, workdir=tmp_path / "out", strength=2 / 3, self_ensemble=True,
                 checkpoint_paths=[str(tmp_path / name) for name in "ab"])
    assert {name: row.table.setting_of for name, row in measured.items()} == {
        f"RED-CNN ({name}){setting}": f"RED-CNN ({name})" if setting else None for name in "ab"
        for setting in ("", ", strength 0.667", ", self-ensemble")}


@pytest.mark.parametrize(("options", "said"), [
    ([], False), (["--dose_fraction=0.2"], True), (["--strength=1"], True),
    (["--dose_fraction=0.5"], False)])
def test_a_setting_without_a_row_of_its_own_is_told(tmp_path, options, said):
    done = command.run("--mode=evaluate", "--config=configs/attn.py", f"--checkpoint={tmp_path}",
                       f"--workdir={tmp_path / 'out'}", *options)
    assert done.stdout == said * ("Strength 1, that of a quarter of the dose or less, is each "
                                  "checkpoint's own row: none is added\n")
    assert "no checkpoint here" in done.stderr


@pytest.mark.parametrize(("checkpoints", "message"), [
    (["MINE=a.npy"], "only models of your own; expected a checkpoint to compare them with"),
    (["attn_dfgan", "A=a.npy", "A=b:c"], "two models named A"),
    (["attn_dfgan", "src/mine.py"], r"^--checkpoint=src/mine\.py: is Python code; expected .* "
                                    "NAME=module:callable, such as MINE=mine:CALLABLE$"),
])
def test_models_of_ones_own_stand_beside_a_checkpoint(tmp_path, checkpoints, message):
    with pytest.raises(InputError, match=message):
        evaluate.run(attn.get_config(), workdir=tmp_path, checkpoint_paths=checkpoints)

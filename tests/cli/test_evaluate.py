import ml_collections
import pytest

from configs import attn
from dfgan_jax.cli import evaluate
from dfgan_jax.cli.identity import claim_workdir
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError


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


@pytest.mark.parametrize(("checkpoints", "message"), [
    (["MINE=a.npy"], "only models of your own; expected a checkpoint to compare them with"),
    (["attn_dfgan", "A=a.npy", "A=b:c"], "two models named A"),
])
def test_models_of_ones_own_stand_beside_a_checkpoint(tmp_path, checkpoints, message):
    with pytest.raises(InputError, match=message):
        evaluate.run(attn.get_config(), workdir=tmp_path, checkpoint_paths=checkpoints)

import json

import pytest

from configs import attn
from dfgan_jax.cli.identity import check_workdir, claim_workdir, shared_by_seeds
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.support.errors import InputError


@pytest.fixture
def config():
    return attn.get_config()


@pytest.mark.parametrize(("generator", "discriminators", "name"), [
    ({"attention": True, "width": 2}, "pair", "AttnDFGAN"),
    ({"attention": False, "width": 2, "architecture": "unet"}, None, "DFGAN"),
    ({"attention": True, "width": 2}, "none", "AttnU-Net"),
    ({"attention": False, "width": 2}, "none", "U-Net"),
    ({"attention": False, "width": 2, "architecture": "redcnn"}, "none", "RED-CNN"),
    ({"attention": False, "width": 2, "architecture": "redcnn"}, None, "RED-CNN"),
    ({"attention": False, "width": 2, "architecture": "redcnn"}, "joint", "RED-CNN GAN"),
])
def test_rows_are_named_by_generator_and_adversary(generator, discriminators, name):
    config = {"generator": generator, "discriminators": discriminators}
    assert model_name(config) == name


def test_a_run_from_before_the_recipes_fields_is_one_of_the_slides(tmp_path):
    config = attn.get_config("slides")
    older = json.loads(config.to_json())
    older["generator"] = {"attention": True, "width": 32}
    older["discriminator"] = {"width": 128}
    older["loss"] = {name: older["loss"][name] for name in (
        "image", "difference", "gradient_image", "gradient_difference", "adversarial")}
    for name in ("algorithm", "warm_up_steps", "weight_decay", "clip_norm", "average_decay",
                 "freeze_batch_stats"):
        del older["optimizer"][name]
    for name in ("train_shares", "crop", "augment"):
        del older["data"][name]
    (tmp_path / "config.json").write_text(json.dumps(older))
    check_workdir(tmp_path, RunOptions.of(config))
    assert shared_by_seeds(older) == shared_by_seeds(config.to_dict())
    config.generator.architecture, config.generator.attention = "redcnn", False
    with pytest.raises(InputError, match=r"generator\.architecture: 'unet' there, 'redcnn' here"):
        check_workdir(tmp_path, RunOptions.of(config))


def test_a_configuration_that_is_there_is_not_written_again(config, tmp_path):
    """Each write is a moment in which a power cut can leave nothing."""
    claim_workdir(tmp_path, RunOptions.of(config))
    (tmp_path / "config.json").chmod(0o400)
    before = (tmp_path / "config.json").stat()
    claim_workdir(tmp_path, RunOptions.of(config))
    assert (tmp_path / "config.json").stat() == before
    config.log_every_steps = 3
    claim_workdir(tmp_path, RunOptions.of(config))
    assert json.loads((tmp_path / "config.json").read_text())["log_every_steps"] == 3


@pytest.mark.parametrize("change", [{"data.cache_dir": "elsewhere"}, {"parallel": "jit"},
                                    {"data.on_device": "never"},
                                    {"checkpoint_after_seconds": 0.0},
                                    {"checkpoint_every_minutes": 1.0}, {"log_every_steps": 3},
                                    {"data.train": "moved/a.npy", "data.valid": "moved/b.npy",
                                     "data.test": "c.npy"},
                                    {"evaluation.baselines": ""}])
def test_what_changes_no_training_may_change_while_a_run_goes_on(config, tmp_path, change):
    claim_workdir(tmp_path, RunOptions.of(config))
    config.update_from_flattened_dict(change)
    check_workdir(tmp_path, RunOptions.of(config))


def test_workdir_may_go_on_with_more_epochs(tmp_path):
    config = attn.get_config("slides")
    check_workdir(tmp_path / "absent", RunOptions.of(config))
    claim_workdir(tmp_path, RunOptions.of(config))
    config.epochs = 300
    check_workdir(tmp_path, RunOptions.of(config))
    config.seed = 1
    with pytest.raises(InputError, match="1 differing field, the first seed: 0 there, 1 here"):
        check_workdir(tmp_path, RunOptions.of(config))


def test_a_schedule_that_depends_on_the_epochs_fixes_them(tmp_path):
    config = attn.get_config("demo")
    claim_workdir(tmp_path, RunOptions.of(config))
    config.epochs += 1
    with pytest.raises(InputError, match="the first epochs: 10 there, 11 here"):
        check_workdir(tmp_path, RunOptions.of(config))


def test_a_folder_of_checkpoints_without_a_config_is_left_alone(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds checkpoints/\*, but no config\.json"):
        check_workdir(tmp_path, RunOptions.of(attn.get_config()))


def test_a_config_file_that_is_cut_off_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON"):
        check_workdir(tmp_path, RunOptions.of(attn.get_config()))


def test_runs_that_differ_in_their_seed_share_all_else(config):
    def shared(**changes):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        return shared_by_seeds(json.loads(changed.to_json()))

    assert shared(seed=7, name="seven", log_every_steps=1,
                  **{"evaluation.physics": False}) == shared()
    assert shared(batch_size=7) != shared()
    assert shared(**{"data.train": "others.npy"}) != shared()  # their means differ by the data, too


def test_seeds_of_one_model_may_have_their_pairs_in_other_places():
    """The pairs are known by their fingerprints; a test split that came later changes nothing."""
    config = attn.get_config()
    moved = attn.get_config()
    moved.data.train, moved.data.test = "other/train.npy", "other/test.npy"

    def shared(each, **fingerprints):
        return shared_by_seeds(each.to_dict(), fingerprints={"train": "a", "valid": "b",
                                                             **fingerprints})

    assert shared(config) == shared(moved, test="c")
    assert shared(config) != shared(config, train="c")
    assert shared_by_seeds(config.to_dict()) != shared_by_seeds(moved.to_dict())

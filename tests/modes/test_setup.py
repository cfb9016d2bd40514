import importlib
import json
import pathlib

import numpy as np
import pytest

from configs import attn, dfgan, redcnn
from dfgan_jax.ct.pairs import Pairs, read_pairs, write_pairs
from dfgan_jax.errors import InputError
from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.modes import setup


@pytest.mark.parametrize(("change", "message"), [
    ({"parallel": "tpu"}, "config.parallel is 'tpu'; expected one of auto, pmap, jit"),
    ({"discriminators": "two"}, "config.discriminators is 'two'; expected one of pair, joint"),
    ({"data.on_device": "yes"}, "config.data.on_device is 'yes'; expected one of auto, always"),
    ({"accumulate": 0}, "config.accumulate is 0; expected more than 0"),
    ({"checkpoint_after_seconds": -1.0}, "checkpoint_after_seconds is -1.0; expected 0 or more"),
    ({"batch_size": 0}, "config.batch_size is 0; expected more than 0"),
    ({"data.size": 100}, "config.data.size is 100; expected a multiple of 16"),
    ({"data.size": 16}, "config.data.size is 16; expected a multiple of 16, at least 32"),
    ({"seed": -1}, "config.seed is -1; expected 0 to"),
    ({"generator.architecture": "resnet"}, "architecture is 'resnet'; expected one of unet, red"),
    ({"generator.architecture": "redcnn"}, "attention is True; expected False, since RED-CNN"),
    ({"optimizer.generator_learning_rate": -1.0}, "generator_learning_rate is -1.0"),
])
def test_values_that_no_run_could_use_are_named(change, message):
    config = attn.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        setup.check(config)


@pytest.mark.parametrize("module", [attn, dfgan])
@pytest.mark.parametrize("variant", ["", "demo", "published"])
def test_every_variant_is_usable(module, variant):
    config = module.get_config(variant)
    setup.check(config)
    assert config.generator.attention == (module is attn)
    networks = setup.build_networks(config)
    assert networks.discriminators == ("joint" if variant == "published" else "pair")
    assert setup.build_loss(config).gradient_image == (1.0 if variant == "published" else 0.0)


@pytest.mark.parametrize("variant", ["", "demo"])
def test_red_cnn_is_trained_without_an_adversary(variant):
    config = redcnn.get_config(variant)
    setup.check(config)
    networks = setup.build_networks(config)
    assert networks.discriminators == "none"
    assert networks.generator == REDCNN(width=config.generator.width, dtype="float32")
    assert config.generator.width == (16 if variant else 96)
    assert setup.model_name(config) == "RED-CNN"


def test_red_cnn_has_no_published_variant():
    with pytest.raises(ValueError, match="no variant 'published' of RED-CNN: there is demo"):
        redcnn.get_config("published")


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
    assert setup.model_name(config) == name


def test_a_run_from_before_architectures_were_a_choice_is_a_unets(tmp_path):
    config = attn.get_config()
    older = json.loads(config.to_json())
    del older["generator"]["architecture"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    setup.check_workdir(tmp_path, config)
    assert setup.shared_by_seeds(older) == setup.shared_by_seeds(config.to_dict())
    config.generator.architecture = "redcnn"
    with pytest.raises(InputError, match=r"generator\.architecture: 'unet' there, 'redcnn' here"):
        setup.check_workdir(tmp_path, config)


def test_unknown_variant_lists_what_there_is():
    with pytest.raises(ValueError, match="no variant 'tiny': there are demo and published"):
        importlib.import_module("configs.attn").get_config("tiny")


def test_the_paper_scale_is_the_published_one():
    config = attn.get_config()
    assert (config.batch_size, config.epochs, config.data.size) == (16, 200, 256)
    assert config.optimizer.generator_learning_rate == 2e-4
    assert config.optimizer.discriminator_learning_rate == 2e-5
    assert dict(config.loss) == {"image": 1.0, "difference": 1.0, "gradient_image": 0.0,
                                 "gradient_difference": 0.0, "adversarial": 0.05}
    simulation = config.simulation
    assert (simulation.train_slices, simulation.valid_slices, simulation.test_slices) == (
        2100, 300, 600)


def write(path, shape, seed):
    rng = np.random.default_rng(seed)
    write_pairs(path, Pairs(*(rng.uniform(0, 0.03, shape).astype(np.float32) for _ in range(2))))
    return str(path)


def refuse(config, split):
    raise AssertionError("nothing is to be simulated")


@pytest.fixture
def config(tmp_path):
    config = attn.get_config()
    config.data.cache_dir = str(tmp_path / "cache")
    return config


def test_splits_are_preprocessed_and_compared(config, tmp_path):
    config.data.size = 32
    config.data.train = write(tmp_path / "a.npy", (2, 64, 64), 0)
    config.data.test = write(tmp_path / "b.npy", (3, 64, 64), 1)
    pairs = setup.load_splits(config, ("train", "test"), refuse)
    assert pairs["train"].ndct.shape == (2, 32, 32)
    assert len(pairs["test"]) == 3
    config.data.test = config.data.train
    with pytest.raises(InputError, match=r"data\.test: slice 0 is also slice 0 of data\.train"):
        setup.load_splits(config, ("train", "test"), refuse)


def test_slices_are_compared_as_they_were_read(config, tmp_path):
    """Two slices may be equal once they are resized that were not before."""
    mu = np.full((1, 128, 128), 0.02, np.float32)
    other = mu.copy()
    other[0, 0, 0] = 0.03  # a pixel that the resize to a quarter never looks at
    write_pairs(tmp_path / "a.npy", Pairs(mu, mu))
    write_pairs(tmp_path / "b.npy", Pairs(mu, other))
    config.data.size = 32
    config.data.train, config.data.test = str(tmp_path / "a.npy"), str(tmp_path / "b.npy")
    pairs = setup.load_splits(config, ("train", "test"), refuse)
    np.testing.assert_array_equal(pairs["train"].qdct, pairs["test"].qdct)


def test_overlap_is_found_in_what_is_cached(config, tmp_path):
    config.data.size = 32
    write_pairs(tmp_path / "both.npy", Pairs(*(np.concatenate([
        getattr(read_pairs(write(tmp_path / f"{seed}.npy", (2, 64, 64), seed)), dose)
        for seed in (0, 1)]) for dose in ("ndct", "qdct"))))
    config.data.train = str(tmp_path / "1.npy")
    config.data.test = str(tmp_path / "both.npy")
    for _ in range(2):  # converted, then from the cache
        with pytest.raises(InputError, match=r"data\.test: slice 2 is also slice 0 of data\.train"):
            setup.load_splits(config, ("train", "test"), refuse)


def test_the_cache_is_in_the_users_cache_unless_it_is_named(config, tmp_path, monkeypatch):
    assert setup.cache_folder(config) == tmp_path / "cache"
    config.data.cache_dir = ""
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert setup.cache_folder(config) == pathlib.Path("/caches/dfgan_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/one")
    assert setup.cache_folder(config) == pathlib.Path("/home/one/.cache/dfgan_jax")


@pytest.mark.parametrize("odd", ["train", "valid"])
def test_native_sizes_that_do_not_fit_are_refused_in_training(config, tmp_path, odd):
    config.data.size = 0
    for number, split in enumerate(("train", "valid")):
        config.data[split] = write(tmp_path / f"{split}.npy",
                                   (2, 40 if split == odd else 48, 64), number)
    with pytest.raises(InputError, match=rf"data\.{odd} .* slices of 40×64; the networks take"):
        setup.load_splits(config, ("train", "valid"), refuse)


def test_what_is_denoised_only_may_have_any_size(config, tmp_path):
    config.data.size = 0
    for number, split in enumerate(("valid", "test")):
        config.data[split] = write(tmp_path / f"{split}.npy", (2, 41, 64), number)
    loaded = setup.load_splits(config, ("valid", "test"), refuse)
    assert loaded["test"].ndct.shape == (2, 41, 64)


@pytest.mark.parametrize("change", [{"data.cache_dir": "elsewhere"}, {"parallel": "jit"},
                                    {"data.on_device": "never"},
                                    {"checkpoint_after_seconds": 0.0},
                                    {"evaluation.baselines": ""}])
def test_what_changes_no_training_may_change_while_a_run_goes_on(config, tmp_path, change):
    setup.claim_workdir(tmp_path, config)
    config.update_from_flattened_dict(change)
    setup.check_workdir(tmp_path, config)


def test_workdir_may_go_on_with_more_epochs(tmp_path):
    config = attn.get_config()
    setup.check_workdir(tmp_path / "absent", config)
    setup.claim_workdir(tmp_path, config)
    config.epochs = 300
    setup.check_workdir(tmp_path, config)
    config.seed = 1
    with pytest.raises(InputError, match="1 fields differ, the first seed: 0 there, 1 here"):
        setup.check_workdir(tmp_path, config)


def test_a_schedule_that_depends_on_the_epochs_fixes_them(tmp_path):
    config = attn.get_config("demo")
    setup.claim_workdir(tmp_path, config)
    config.epochs += 1
    with pytest.raises(InputError, match="the first epochs: 10 there, 11 here"):
        setup.check_workdir(tmp_path, config)


def test_a_folder_of_checkpoints_without_a_config_is_left_alone(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds checkpoints/\*, but no config\.json"):
        setup.check_workdir(tmp_path, attn.get_config())


def test_a_config_without_a_field_is_named():
    config = attn.get_config()
    with config.unlocked():
        del config.discriminators
    with pytest.raises(InputError, match=r"config\.discriminators is missing"):
        setup.check(config)


def test_a_config_file_that_is_cut_off_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not readable as JSON"):
        setup.check_workdir(tmp_path, attn.get_config())


def test_cosine_brings_the_learning_rate_to_nothing():
    config = attn.get_config("demo")
    optimizer = setup.build_optimizers(config, total_steps=4).generator
    parameters = np.zeros(1, np.float32)
    state, sizes = optimizer.init(parameters), []
    for _ in range(5):
        updates, state = optimizer.update(np.ones(1, np.float32), state, parameters)
        sizes.append(abs(float(updates[0])))
    # Adam's update of a constant gradient is the learning rate itself.
    rate = config.optimizer.generator_learning_rate
    np.testing.assert_allclose(sizes, rate * (1 + np.cos(np.pi * np.arange(5) / 4)) / 2, atol=1e-7)


def test_the_same_normal_dose_in_two_splits_is_warned_of(config, tmp_path, capsys):
    config.data.size = 32
    config.data.train = write(tmp_path / "a.npy", (2, 64, 64), 0)
    config.data.test = write(tmp_path / "b.npy", (2, 64, 64), 1)
    setup.load_splits(config, ("train", "test"), refuse)
    assert "warning" not in capsys.readouterr().err
    train, test = (read_pairs(config.data[split]) for split in ("train", "test"))
    write_pairs(tmp_path / "same.npy", Pairs(np.array(train.ndct), np.array(test.qdct)))
    config.data.test = str(tmp_path / "same.npy")
    setup.load_splits(config, ("train", "test"), refuse)
    assert ("warning: normal doses: data.test: slice 0 is also slice 0 of data.train"
            in capsys.readouterr().err)


def test_runs_that_differ_in_their_seed_share_all_else(config):
    def shared(**changes):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        return setup.shared_by_seeds(json.loads(changed.to_json()))

    assert shared(seed=7, name="seven", log_every_steps=1,
                  **{"evaluation.physics": False}) == shared()
    assert shared(batch_size=7) != shared()


def test_a_configuration_from_before_there_was_an_evaluation_is_told(config):
    del config.evaluation
    with pytest.raises(InputError, match=r"config\.evaluation\.protocols is missing"):
        setup.check(config)

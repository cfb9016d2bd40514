import importlib
import json
import pathlib

import numpy as np
import pytest

from configs import attn, dfgan, redcnn
from dfgan_jax.cli import setup
from dfgan_jax.data.pairs import Pairs
from dfgan_jax.data.pairs_file import read_pairs, write_pairs
from dfgan_jax.models.patch_discriminator import PatchDiscriminator
from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.models.unet import UNet
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.losses import LossOptions
from dfgan_jax.training.state import Networks


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
    ({"generator.output": "residual"}, "generator.output is 'residual'; expected one of image, d"),
    ({"generator.normalization": "layer"}, "normalization is 'layer'; expected one of batch, gro"),
    ({"generator.gate_window": -1}, "generator.gate_window is -1; expected 0 or more"),
    ({"generator.momentum": 1.0}, "generator.momentum is 1.0; expected 0 or more, and below 1"),
    ({"loss.intensity": "l1"}, "loss.intensity is 'l1'; expected one of squared, charbonnier, log"),
    ({"loss.soft_tissue": 0.0}, "loss.soft_tissue is 0.0; expected more than 0"),
    ({"loss.gradient_penalty": -1.0}, "loss.gradient_penalty is -1.0; expected 0 or more"),
    ({"optimizer.average_decay": 1.0}, "optimizer.average_decay is 1.0; expected 0 or more, and b"),
    ({"optimizer.warm_up_steps": -1}, "optimizer.warm_up_steps is -1; expected 0 or more"),
    ({"validation.statistics": "batch"}, "validation.statistics is 'batch'; expected 'running'"),
    ({"data.crop": 24}, "config.data.crop is 24; expected a multiple of 16, at least 32"),
    ({"data.train": "a.npy,b.npy", "data.train_shares": "1"},
     r"data.train_shares is '1'; expected a share above 0 for each of the 2 files \(a.npy, b"),
    ({"data.train": "a.npy,b.npy", "data.train_shares": "0.7,0.2"}, "which add up to 1"),
    ({"data.train": "a.npy,b.npy", "data.train_shares": "1.5,-0.5"}, "a share above 0"),
    ({"data.train_shares": "1"}, "none is given"),
])
def test_values_that_no_run_could_use_are_named(change, message):
    config = attn.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        setup.check(config)


@pytest.mark.parametrize("module", [attn, dfgan])
@pytest.mark.parametrize("variant", ["", "demo", "open", "slides", "published"])
def test_every_variant_is_usable(module, variant):
    config = module.get_config(variant)
    setup.check(config)
    assert config.generator.attention == (module is attn)
    networks = setup.build_networks(config)
    assert networks.discriminators == ("joint" if variant == "published" else "pair")
    assert setup.build_loss(config).gradient_image == (1.0 if variant == "published" else 0.0)
    is_source = variant in ("slides", "published")
    assert networks.generator.output == ("image" if is_source else "difference")
    assert (config.optimizer.average_decay > 0) == (not is_source)


def test_the_pretrained_models_are_trained_alike():
    variants = [module.get_config("open") for module in (attn, dfgan, redcnn)]
    for config in variants:
        assert config.data == variants[0].data
        assert (config.epochs, config.batch_size) == (variants[0].epochs, variants[0].batch_size)
        assert config.loss.intensity == "log_squared"


def test_red_cnn_takes_none_of_the_unets_options():
    config = redcnn.get_config()
    config.generator.output = "difference"
    with pytest.raises(InputError, match=r"generator.output is 'difference'; expected 'image', s"):
        setup.check(config)


@pytest.mark.parametrize("variant", ["", "demo", "open"])
def test_red_cnn_is_trained_without_an_adversary(variant):
    config = redcnn.get_config(variant)
    setup.check(config)
    networks = setup.build_networks(config)
    assert networks.discriminators == "none"
    assert networks.generator == REDCNN(width=config.generator.width, dtype="float32")
    assert config.generator.width == (16 if variant else 96)
    assert setup.model_name(config) == "RED-CNN"


def test_red_cnn_has_no_published_variant():
    with pytest.raises(ValueError, match="no variant 'published' of RED-CNN: there are demo and"):
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


def test_a_run_from_before_the_recipes_fields_is_one_of_the_slides(tmp_path):
    config = attn.get_config("slides")
    older = json.loads(config.to_json())
    older["generator"] = {"attention": True, "width": 32}
    older["discriminator"] = {"width": 128}
    older["loss"] = {name: older["loss"][name] for name in (
        "image", "difference", "gradient_image", "gradient_difference", "adversarial")}
    for name in ("warm_up_steps", "weight_decay", "clip_norm", "average_decay"):
        del older["optimizer"][name]
    for name in ("train_shares", "crop", "augment"):
        del older["data"][name]
    (tmp_path / "config.json").write_text(json.dumps(older))
    setup.check_workdir(tmp_path, config)
    assert setup.shared_by_seeds(older) == setup.shared_by_seeds(config.to_dict())
    config.generator.architecture = "redcnn"
    with pytest.raises(InputError, match=r"generator\.architecture: 'unet' there, 'redcnn' here"):
        setup.check_workdir(tmp_path, config)


def test_unknown_variant_lists_what_there_is():
    with pytest.raises(ValueError, match="no variant 'tiny': there are demo, open, slides, pub"):
        importlib.import_module("configs.attn").get_config("tiny")


def test_the_variant_slides_is_that_of_the_slides():
    config = attn.get_config("slides")
    assert (config.batch_size, config.epochs, config.data.size) == (16, 200, 256)
    assert config.optimizer.generator_learning_rate == 2e-4
    assert config.optimizer.discriminator_learning_rate == 2e-5
    assert setup.build_loss(config) == LossOptions()
    assert setup.build_networks(config) == Networks(
        UNet(attention=True, dtype="float32"), PatchDiscriminator(dtype="float32"), "pair")
    assert dict(config.optimizer) == {
        "generator_learning_rate": 2e-4, "discriminator_learning_rate": 2e-5, "b1": 0.9,
        "b2": 0.999, "eps": 1e-8, "schedule": "constant", "warm_up_steps": 0, "weight_decay": 0.0,
        "clip_norm": 0.0, "average_decay": 0.0}
    assert (config.data.crop, config.data.augment) == (0, False)
    assert config.validation.select_by == "psnr"
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
    config = attn.get_config("slides")
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


def test_one_split_may_hold_a_normal_dose_at_several_low_ones(config, tmp_path, capsys):
    config.data.size = 32
    train, other = (read_pairs(write(tmp_path / f"{name}.npy", (2, 64, 64), seed))
                    for seed, name in enumerate("ab"))
    write_pairs(tmp_path / "again.npy", Pairs(np.array(train.ndct), np.array(other.qdct)))
    config.data.train = f"{tmp_path / 'a.npy'},{tmp_path / 'again.npy'}"
    pairs = setup.load_splits(config, ("train",), refuse)
    assert pairs["train"].counts == [2, 2]
    assert "warning" not in capsys.readouterr().err


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


def test_several_files_of_a_split_follow_each_other(config, tmp_path):
    config.data.size = 32
    files = [write(tmp_path / f"{name}.npy", (count, 64, 64), seed)
             for seed, (name, count) in enumerate([("a", 2), ("b", 3)])]
    config.data.train = f"{files[0]}, {files[1]}"
    pairs = setup.load_splits(config, ("train",), refuse)["train"]
    assert (len(pairs), pairs.counts) == (5, [2, 3])
    config.data.train = files[1]
    alone = setup.load_splits(config, ("train",), refuse)["train"]
    np.testing.assert_array_equal(pairs.ndct[3], alone.ndct[1])
    config.data.train = f"{files[1]},{files[1]}"
    with pytest.raises(InputError, match=r"data\.train, file 2 \(\S+b\.npy\): slice 0 is also "):
        setup.load_splits(config, ("train",), refuse)


def test_files_of_several_sizes_need_crops(config, tmp_path):
    config.data.size = 0
    config.data.train = ",".join([write(tmp_path / "a.npy", (2, 64, 64), 0),
                                  write(tmp_path / "b.npy", (2, 40, 72), 1)])
    with pytest.raises(InputError, match=r"has slices of 40×72 and 64×64; expected one size: set "
                                         r"data\.size to resize, or data\.crop"):
        setup.load_splits(config, ("train",), refuse)
    config.data.crop = 32
    assert setup.load_splits(config, ("train",), refuse)["train"].sizes == [(64, 64), (40, 72)]


def updates(changes, *, gradients, params, total_steps=10):
    config = dfgan.get_config("slides")
    config.update_from_flattened_dict({f"optimizer.{k}": v for k, v in changes.items()})
    optimizer = setup.build_optimizers(config, total_steps=total_steps).generator
    state, found = optimizer.init(params), []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, params)
        found.append(update)
    return np.array(found)


def test_the_generators_rate_warms_up_and_follows_a_cosine():
    """With one gradient for ever, Adam moves by its rate."""
    found = -updates({"warm_up_steps": 4, "schedule": "cosine", "generator_learning_rate": 0.1},
                     gradients=[np.float32(1)] * 10, params=np.float32(0))
    np.testing.assert_allclose(found[:5], 0.1 * np.array([0, 0.25, 0.5, 0.75, 1]), atol=1e-6)
    cosine = 0.1 * (1 + np.cos(np.pi * np.arange(6) / 6)) / 2
    np.testing.assert_allclose(found[4:], cosine, atol=1e-6)
    constant = -updates({"warm_up_steps": 2, "generator_learning_rate": 0.1},
                        gradients=[np.float32(1)] * 10, params=np.float32(0))
    np.testing.assert_allclose(constant[2:], 0.1, atol=1e-6)


def test_weight_decay_and_clipping_by_hand():
    decayed = updates({"weight_decay": 0.5, "generator_learning_rate": 0.1},
                      gradients=[np.float32(1)], params=np.float32(4))
    np.testing.assert_allclose(decayed, -0.1 * (1 + 0.5 * 4), rtol=1e-5)
    # Adam's second moment sees the clipped gradient: the ratio of its steps shows the norm.
    gradients = [np.float32([3, 4]), np.float32([0.3, 0.4])]
    plain, clipped = (updates({"clip_norm": norm, "b1": 0.0, "b2": 0.5}, gradients=gradients,
                              params=np.zeros(2, np.float32)) for norm in (0.0, 0.5))
    # b1 is 0: g / sqrt(v), with v of two steps (0.5 · 0.5 g₁² + 0.5 g₂²) / 0.75.
    for found, first in ((plain, 3.0), (clipped, 0.3)):
        second = 0.3 / np.sqrt((0.25 * first**2 + 0.5 * 0.3**2) / 0.75)
        assert found[1, 0] / found[0, 0] == pytest.approx(second, rel=1e-4)

import importlib
import json
import math

import pytest

from configs import attn, base, cnn10, dfgan, nafnet, redcnn
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions
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
    ({"loss.anatomy": -1.0}, "loss.anatomy is -1.0; expected 0 or more"),
    ({"loss.anatomy": 1.0, "loss.intensity": "charbonnier"},
     "anatomy is 1, and intensity is 'charbonnier'; expected 'squared' or 'log_squared'"),
    ({"loss.anatomy": 1.0, "loss.image": 0.0, "loss.difference": 0.0, "loss.gradient_image": 1.0},
     "anatomy is 1, and image and difference are 0; expected more than 0 for one of them"),
    ({"loss.gradient_penalty": 1.0, "discriminators": "none"},
     "config.loss.gradient_penalty is 1.0; expected 0.0, since config.discriminators is 'none'"),
    ({"loss.adversarial_from_step": 9, "discriminators": "none"},
     "config.loss.adversarial_from_step is 9; expected 0, since config.discriminators is 'none'"),
    ({"generator.gate_window": 64, "generator.attention": False},
     "config.generator.gate_window is 64; expected 0, since config.generator.attention is False"),
    ({"generator.momentum": 0.99, "generator.normalization": "none"},
     "config.generator.momentum is 0.99; expected 0.9, since config.generator.normalization is 'n"),
    ({"optimizer.average_decay": 1.0}, "optimizer.average_decay is 1.0; expected 0 or more, and b"),
    ({"optimizer.warm_up_steps": -1}, "optimizer.warm_up_steps is -1; expected 0 or more"),
    ({"validation.statistics": "batch"}, "validation.statistics is 'batch'; expected 'running'"),
    ({"optimizer.freeze_batch_stats": True},
     "config.optimizer.freeze_batch_stats is True; expected False, or an initial_checkpoint"),
    ({"optimizer.freeze_batch_stats": True, "initial_checkpoint": "runs/attn",
      "generator.attention": False, "generator.normalization": "group"},
     "config.optimizer.freeze_batch_stats is True; expected False, since the generator has no bat"),
    ({"optimizer.freeze_batch_stats": True, "initial_checkpoint": "runs/attn",
      "optimizer.average_decay": 0.0, "validation.statistics": "batch"},
     "config.validation.statistics is 'batch'; expected 'running', since config.optimizer.freeze"),
    ({"optimizer.b1": 1.0}, "config.optimizer.b1 is 1.0; expected 0 or more, and below 1"),
    ({"optimizer.b2": 1.5}, "config.optimizer.b2 is 1.5; expected 0 or more, and below 1"),
    ({"optimizer.eps": 0.0}, "config.optimizer.eps is 0.0; expected more than 0"),
    ({"optimizer.generator_learning_rate": math.inf},
     "config.optimizer.generator_learning_rate is inf; expected a finite number"),
    ({"optimizer.discriminator_learning_rate": math.nan},
     "config.optimizer.discriminator_learning_rate is nan; expected more than 0"),
    ({"loss.image": -1.0}, "config.loss.image is -1.0; expected 0 or more"),
    ({"loss.difference": math.nan}, "config.loss.difference is nan; expected 0 or more"),
    ({"loss.gradient_image": math.inf}, "loss.gradient_image is inf; expected a finite number"),
    ({"loss.gradient_difference": -0.5}, "loss.gradient_difference is -0.5; expected 0 or more"),
    ({"loss.image": 0.0, "loss.difference": 0.0},
     "config.loss.image, difference, gradient_image and gradient_difference are 0; expected more"),
    ({"generator.width": 6, "generator.normalization": "group"},
     "config.generator.width is 6; expected a multiple of 4, the channels of a group"),
    ({"data.size": 64, "data.crop": 96}, "config.data.crop is 96; expected at most 64, the size"),
    ({"data.crop": 24}, "config.data.crop is 24; expected a multiple of 16, at least 32"),
    ({"data.train": "a.npy,b.npy", "data.train_shares": "1"},
     r"data.train_shares is '1'; expected a share above 0 for each of the 2 files \(a.npy, b"),
    ({"data.train": "a.npy,b.npy", "data.train_shares": "0.7,0.2"}, "which add up to 1"),
    ({"data.train": "a.npy,b.npy", "data.train_shares": "1.5,-0.5"}, "a share above 0"),
    ({"data.train_shares": "1"}, "none is given"),
    ({"data.cache_dir": "gs://bucket/cache"},
     "config.data.cache_dir is 'gs://bucket/cache'; expected a path in a mounted file system"),
    ({"data.train": "a.npy,s3://b.npy"}, "config.data.train is 'a.npy,s3://b.npy'; expected a pat"),
    ({"initial_checkpoint": "hf://owner/model"}, "config.initial_checkpoint is 'hf://owner/model'"),
])
def test_values_that_no_run_could_use_are_named(change, message):
    config = attn.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        RunOptions.of(config)


def test_a_mistyped_field_of_a_file_gets_the_nearest_name():
    config = attn.get_config()
    with config.unlocked():
        config.optimizer.shedule = "cosine"
    with pytest.raises(InputError, match=r"config\.optimizer\.shedule: there is no such field "
                                         r"\(did you mean 'schedule'\?\); there are algorithm, "):
        RunOptions.of(config)


def test_the_gans_train_without_an_adversary():
    config = attn.get_config()
    config.discriminators = "none"
    assert RunOptions.of(config).loss.adversarial == 5.0


@pytest.mark.parametrize("changes", [{}, {"normalization": "none"}, {"attention": False}])
def test_statistics_can_be_frozen_where_the_generator_has_some(changes):
    config = attn.get_config()  # CBAM's spatial gates have them without those of the stages
    config.initial_checkpoint, config.optimizer.freeze_batch_stats = "runs/attn", True
    config.generator.update(changes)
    assert RunOptions.of(config).training(total_steps=1).optimizers.freezes_batch_stats


@pytest.mark.parametrize("module", [attn, dfgan])
@pytest.mark.parametrize("variant", ["", *base.VARIANTS])
def test_every_variant_is_usable(module, variant):
    config = module.get_config(variant)
    RunOptions.of(config)
    assert config.generator.attention == (module is attn)
    networks = RunOptions.of(config).networks
    assert networks.discriminators == ("joint" if variant == "published" else "pair")
    assert RunOptions.of(config).loss.gradient_image == (1.0 if variant == "published" else 0.0)
    is_source = variant in ("slides", "published")
    assert networks.generator.output == ("image" if is_source else "difference")
    assert (config.optimizer.average_decay > 0) == (not is_source)


def test_the_pretrained_models_are_trained_alike():
    variants = [module.get_config("open") for module in (attn, dfgan, redcnn)]
    for config in variants:
        assert config.data == variants[0].data
        assert (config.epochs, config.batch_size) == (variants[0].epochs, variants[0].batch_size)
        assert config.loss.intensity == "log_squared"
        assert config.optimizer.algorithm == "muon"
        assert config.optimizer.generator_learning_rate == 2e-3


@pytest.mark.parametrize("module", [attn, cnn10, dfgan, nafnet, redcnn])
def test_the_native_variant_is_the_open_one_without_its_pairs(module):
    native, opened = (RunOptions.of(module.get_config(each)).as_json() for each in
                      ("native", "open"))
    assert native["name"] == f"{opened['name'].removesuffix('_open')}_native"
    for each in (native, opened):
        del each["name"]
        for name in ("train", "train_shares", "valid", "test"):
            assert bool(each["data"].pop(name)) == (each is opened)
    assert native == opened


def test_red_cnn_takes_none_of_the_unets_options():
    config = redcnn.get_config()
    config.generator.output = "difference"
    with pytest.raises(InputError, match=r"generator.output is 'difference'; expected 'image', s"):
        RunOptions.of(config)


@pytest.mark.parametrize("variant", ["", "demo", "native", "open"])
def test_red_cnn_is_trained_without_an_adversary(variant):
    config = redcnn.get_config(variant)
    RunOptions.of(config)
    networks = RunOptions.of(config).networks
    assert networks.discriminators == "none"
    assert networks.generator == REDCNN(width=config.generator.width, dtype="float32")
    assert config.generator.width == (16 if variant else 96)
    assert model_name(config) == "RED-CNN"


def test_red_cnn_has_no_published_variant():
    with pytest.raises(ValueError, match="no variant 'published' of RED-CNN: there are demo, n"):
        redcnn.get_config("published")


def test_unknown_variant_lists_what_there_is():
    with pytest.raises(ValueError, match="no variant 'tiny': there are demo, native, open, "):
        importlib.import_module("configs.attn").get_config("tiny")


def test_the_variant_slides_is_that_of_the_slides():
    config = attn.get_config("slides")
    assert (config.batch_size, config.epochs, config.data.size) == (16, 200, 256)
    assert config.optimizer.generator_learning_rate == 2e-4
    assert config.optimizer.discriminator_learning_rate == 2e-5
    assert RunOptions.of(config).loss == LossOptions()
    assert RunOptions.of(config).networks == Networks(
        UNet(attention=True, dtype="float32"), PatchDiscriminator(dtype="float32"), "pair")
    assert dict(config.optimizer) == {
        "algorithm": "adam", "generator_learning_rate": 2e-4, "discriminator_learning_rate": 2e-5,
        "b1": 0.9, "b2": 0.999, "eps": 1e-8, "schedule": "constant", "warm_up_steps": 0,
        "weight_decay": 0.0, "clip_norm": 0.0, "average_decay": 0.0,
        "freeze_batch_stats": False}
    assert (config.data.crop, config.data.augment) == (0, False)
    assert config.validation.select_by == "psnr"
    simulation = config.simulation
    assert (simulation.train_slices, simulation.valid_slices, simulation.test_slices) == (
        2100, 300, 600)


def test_a_config_without_a_field_is_named():
    config = attn.get_config()
    with config.unlocked():
        del config.discriminators
    with pytest.raises(InputError, match=r"config\.discriminators is missing"):
        RunOptions.of(config)


def test_a_configuration_from_before_there_was_an_evaluation_is_told():
    config = attn.get_config()
    del config.evaluation
    with pytest.raises(InputError, match=r"config\.evaluation\.protocols is missing"):
        RunOptions.of(config)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("protocols", "published,redcn", "has 'redcn'; expected some of full_range, published"),
    ("baselines", "bm3d", "has 'bm3d'; expected some of gaussian"),
    ("pixel_spacing_mm", -1.0, "is -1.0; expected 0 or more")])
def test_wrong_fields_are_refused(field, value, message):
    config = attn.get_config()
    config.evaluation[field] = value
    with pytest.raises(InputError, match=f"config.evaluation.{field} {message}"):
        RunOptions.of(config)


def test_an_unknown_field_is_named():
    config = attn.get_config()
    with config.unlocked():
        config.loss.images = 1.0
    with pytest.raises(InputError, match=r"config\.loss\.images: there is no such field "
                                         r"\(did you mean 'image'\?\); there"):
        RunOptions.of(config)


@pytest.mark.parametrize("variant", ["", *base.VARIANTS])
def test_what_checkpoints_keep_is_the_configuration(variant):
    config = attn.get_config(variant)
    options = RunOptions.of(config)
    assert json.dumps(options.as_json()) == config.to_json()
    assert RunOptions.of(json.loads(config.to_json())) == options


def test_lists_are_separated_by_commas():
    config = attn.get_config()
    config.data.train = "a.npy, b.npy,"
    config.evaluation.checkpoints = "one"
    options = RunOptions.of(config)
    assert options.data.train == ("a.npy", "b.npy")
    assert (options.data.valid, options.evaluation.checkpoints) == ((), ("one",))
    assert options.as_json()["data"]["train"] == "a.npy,b.npy"


def test_a_tilde_is_the_home_in_every_path_of_a_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = attn.get_config("")
    config.initial_checkpoint = "~/start.pth"
    config.data.train, config.data.valid, config.data.test = "~/a.npy,b.npy", "~/v.npy", "~/x,y"
    config.data.cache_dir = "~/cache"
    config.evaluation.checkpoints = "attn_dfgan,~/run"
    (tmp_path / "x,y").touch()
    options = RunOptions.of(config)
    home = str(tmp_path)
    assert options.initial_checkpoint == f"{home}/start.pth"
    assert options.data.files("train") == (f"{home}/a.npy", "b.npy")
    assert options.data.files("valid") == (f"{home}/v.npy",)
    assert options.data.files("test") == (f"{home}/x,y",)
    assert str(options.data.cache_folder) == f"{home}/cache"
    assert options.evaluation.checkpoints == ("attn_dfgan", f"{home}/run")


def test_without_a_home_the_field_of_the_cache_is_named(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(InputError, match=r"config\.data\.cache_dir is empty, and this user has no "
                                         "home folder"):
        _ = RunOptions.of(attn.get_config("")).data.cache_folder
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert str(RunOptions.of(attn.get_config("")).data.cache_folder) == "/elsewhere/dfgan_jax"

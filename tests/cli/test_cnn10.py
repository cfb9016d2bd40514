"""CNN-10 from its configuration to its row in the tables."""

import json

import jax
import numpy as np
import pytest
import safetensors

from configs import cnn10
from dfgan_jax.cli import convert
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.models.cnn10 import CNN10
from dfgan_jax.porting.weights import read_weights
from dfgan_jax.support.errors import InputError
from tests.cli import command
from tests.cli.untrained import untrained


@pytest.mark.parametrize("variant", ["", "demo", "native", "open"])
def test_it_is_trained_without_an_adversary(variant):
    config = cnn10.get_config(variant)
    networks = RunOptions.of(config).networks
    assert networks.discriminators == "none"
    assert networks.generator == CNN10(dtype="float32")
    assert model_name(config) == "CNN-10"
    config.discriminators = "pair"
    assert model_name(config) == "CNN-10 GAN"


def test_there_is_no_published_variant():
    with pytest.raises(ValueError, match="no variant 'published' of CNN-10: there are demo, n"):
        cnn10.get_config("published")


@pytest.mark.parametrize(("change", "message"), [
    ({"generator.attention": True}, "attention is True; expected False, since CNN-10 has no att"),
    ({"generator.output": "difference"}, "output is 'difference'; expected 'image', since CNN-10"),
    ({"generator.width": 5}, "config.generator.width is 5; expected an even number, more than 0"),
    ({"data.size": 31}, "config.data.size is 31; expected a multiple of 1, at least 32"),
])
def test_values_that_it_does_not_take_are_named(change, message):
    config = cnn10.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        RunOptions.of(config)


def test_a_run_is_converted(tmp_path):
    _, state = untrained(tmp_path / "run", cnn10, variant="", discriminators="none", step=40)
    convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.safetensors")
    read = read_weights([tmp_path / "x.safetensors"]).weights
    jax.tree.map(np.testing.assert_array_equal, read.generator_variables["params"],
                 jax.tree.map(np.asarray, state.model["params"]))
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert file.metadata()["model"] == "CNN-10"
    from_run, from_file = (Denoiser.load(tmp_path / name) for name in ("run", "x.safetensors"))
    assert from_run.weights_sha256 == from_file.weights_sha256


def test_the_demo_is_trained_and_stands_in_the_tables(tmp_path):
    """Small, on slices of a size that only this network is trained on as they are."""
    done = command.run("--config=configs/cnn10.py:demo", *command.TINY[1:],
                       *command.make_pairs(tmp_path, size=37), "--config.epochs=2",
                       "--config.evaluation.checkpoints=", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CNN-10 in ")
    rows = json.loads((tmp_path / "run" / "results.json").read_text()
                      )["protocols"]["full_range"]["rows"]
    assert [row["name"] for row in rows] == ["QDCT", "CNN-10"]
    # On the same slices; those of two updates differ by more.
    metrics = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [row["generator_loss"] for row in metrics if row["kind"] == "valid"]
    assert len(losses) == 2
    assert losses[1] < losses[0]

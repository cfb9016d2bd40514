import math

import numpy as np
import pytest

pytest.importorskip(
    "torch", reason="PyTorch is not installed; make test installs it for Python 3.11")

import torch

from dfgan_jax.cli import convert
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.models import cnn10
from dfgan_jax.porting.cnn10_layout import CNN10_LAYOUT
from tests.parity import cases, our_runs
from tests.parity.cases import Difference, exceeding
from tests.parity.published import runs
from tests.parity.published.cnn10 import CNN10

WIDTH = 6

MEAN, SD = 481.45419786099086, 502.18507379395044
"""Of ldct-benchmark's training data, whose values are HU + 1024."""

# Seen in float32: 4e-7, in the gradients of all parameters 9e-7; in float64 1e-15.
FLOAT32 = {"output": Difference(1e-5, 5e-6),
           "gradients of the parameters": Difference(math.inf, 1e-4),
           "gradient of the input": Difference(math.inf, 1e-4)}
FLOAT64 = Difference(1e-8, 1e-8)


def published(precision):
    """The network on normalised HU, and the gradients of Σ output·cotangent."""
    network = runs.filled(CNN10(WIDTH), precision)
    qdct, cotangent = map(torch.from_numpy, cases.generator_inputs(precision))
    qdct.requires_grad_()
    stored = network((qdct * 500 - 500 + 1024 - MEAN) / SD) * SD + MEAN
    denoised = (stored - 1024 + 500) / 500
    torch.sum(denoised * cotangent).backward()
    return {"output": {"": runs.array(denoised)},
            "gradients of the parameters": runs.gradients(network),
            "gradient of the input": {"": runs.array(qdct.grad)}}


def ours(precision):
    network = cnn10.CNN10(width=WIDTH)
    layout = CNN10_LAYOUT.layout(cnn10.CNN10Options(width=WIDTH))

    return our_runs.plain_generator(network, layout, precision)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_cnn10(precision):
    differences = cases.differences(ours(precision), published(precision))
    bounds = FLOAT32 if precision == "float32" else dict.fromkeys(differences, FLOAT64)
    assert exceeding(differences, bounds) == {}


def test_the_layout_is_that_of_the_published_keys_in_order():
    theirs = {key: tuple(value.shape) for key, value in CNN10().state_dict().items()}
    layout = CNN10_LAYOUT.layout(cnn10.CNN10Options())
    assert [(key, entry.shape) for key, entry in layout.items()] == list(theirs.items())


def test_a_checkpoint_as_ldct_benchmark_saves_one_denoises_alike_and_comes_back(tmp_path):
    network = runs.filled(CNN10(WIDTH), "float32")
    given = tmp_path / "cnn10.pt"
    torch.save({"iteration": 5, "model_state_dict": network.state_dict()}, given)
    # A size that no other network takes as it is: the zeros at its edges are the published ones.
    hu = np.random.default_rng(0).uniform(-1024, 3000, (2, 21, 35)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy((hu + 1024 - MEAN) / SD)[:, None].float())[:, 0]
    np.testing.assert_allclose(Denoiser.load(given)(hu), expected.numpy() * SD + MEAN - 1024,
                               atol=0.05)

    convert.run(inputs=[given], output=tmp_path / "checkpoint")
    convert.run(inputs=[tmp_path / "checkpoint"], output=tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    CNN10(WIDTH).load_state_dict(back, strict=True)
    for key, value in network.state_dict().items():
        assert torch.equal(back[key], value)

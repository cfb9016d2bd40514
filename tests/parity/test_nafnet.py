import math

import numpy as np
import pytest

pytest.importorskip(
    "torch", reason="PyTorch is not installed; make test installs it for Python 3.11")

import torch

from dfgan_jax.cli import convert
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.models import nafnet
from dfgan_jax.porting.nafnet_layout import NAFNET_LAYOUT
from tests.parity import cases, our_runs
from tests.parity.cases import Difference, exceeding
from tests.parity.published import runs
from tests.parity.published.nafnet import NAFNet

OPTIONS = nafnet.NAFNetOptions(width=4, blocks="1,2,0,1,1")

FLOAT32 = {"output": Difference(1e-4, 5e-5),
           "gradients of the parameters": Difference(math.inf, 1e-3),
           "gradient of the input": Difference(math.inf, 1e-3)}
FLOAT64 = Difference(1e-8, 1e-8)


def twin(options=OPTIONS):
    encoder, middle, decoder = nafnet.blocks_of(options)
    return NAFNet(options.width, encoder, middle, decoder)


def published(precision):
    """The network on normalised HU, and the gradients of Σ output·cotangent."""
    network = runs.filled(twin(), precision)
    qdct, cotangent = map(torch.from_numpy, cases.generator_inputs(precision))
    qdct.requires_grad_()
    denoised = network(qdct)
    torch.sum(denoised * cotangent).backward()
    return {"output": {"": runs.array(denoised)},
            "gradients of the parameters": runs.gradients(network),
            "gradient of the input": {"": runs.array(qdct.grad)}}


def ours(precision):
    network = nafnet.NAFNet(width=OPTIONS.width, blocks=OPTIONS.blocks)
    return our_runs.plain_generator(network, NAFNET_LAYOUT.layout(OPTIONS), precision)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_nafnet(precision):
    differences = cases.differences(ours(precision), published(precision))
    bounds = FLOAT32 if precision == "float32" else dict.fromkeys(differences, FLOAT64)
    assert exceeding(differences, bounds) == {}


def test_the_layout_is_that_of_the_published_keys_in_order():
    options = nafnet.NAFNetOptions(width=2)
    theirs = {key: tuple(value.shape) for key, value in twin(options).state_dict().items()}
    layout = NAFNET_LAYOUT.layout(options)
    assert [(key, entry.shape) for key, entry in layout.items()] == list(theirs.items())


def test_a_published_file_denoises_alike_and_comes_back(tmp_path):
    network = runs.filled(twin(), "float32")
    given = tmp_path / "nafnet.pth"
    torch.save({"params": network.state_dict()}, given)
    hu = np.random.default_rng(0).uniform(-1024, 3000, (2, 32, 48)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy((hu + 500) / 500)[:, None].float())[:, 0]
    np.testing.assert_allclose(Denoiser.load(given)(hu), expected.numpy() * 500 - 500, atol=0.1)

    convert.run(inputs=[given], output=tmp_path / "checkpoint")
    convert.run(inputs=[tmp_path / "checkpoint"], output=tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    twin().load_state_dict(back, strict=True)
    for key, value in network.state_dict().items():
        assert torch.equal(back[key], value)

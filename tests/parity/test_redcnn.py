import math

import numpy as np
import pytest

pytest.importorskip(
    "torch", reason="PyTorch is not installed; make test installs it for Python 3.11")

import torch

from dfgan_jax.cli import convert
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.models import redcnn
from dfgan_jax.porting import torch_layout
from tests.parity import cases, our_runs
from tests.parity.cases import Difference, exceeding
from tests.parity.published import runs
from tests.parity.published.redcnn import REDCNN

WIDTH = 6

PREFIX = "e."
"""Of the names that weights are drawn by: with these, the last ReLU stops a sixth of the pixels."""

# Seen in float32: 1e-6, in the gradients of all parameters 4e-7; in float64 1e-14.
FLOAT32 = {"output": Difference(1e-5, 5e-6),
           "gradients of the parameters": Difference(math.inf, 1e-4),
           "gradient of the input": Difference(math.inf, 1e-4)}
FLOAT64 = Difference(1e-8, 1e-8)


def published(precision):
    """The network on normalised HU, and the gradients of Σ output·cotangent."""
    network = runs.filled(REDCNN(WIDTH), precision, PREFIX)
    qdct, cotangent = map(torch.from_numpy, cases.generator_inputs(precision))
    qdct.requires_grad_()
    hu = network((qdct * 500 - 500 + 1024) / 4096) * 4096 - 1024
    denoised = (hu + 500) / 500
    torch.sum(denoised * cotangent).backward()
    return {"output": {"": runs.array(denoised)},
            "gradients of the parameters": runs.gradients(network),
            "gradient of the input": {"": runs.array(qdct.grad)}}


def ours(precision):
    network = redcnn.REDCNN(width=WIDTH)
    layout = torch_layout.redcnn_layout(width=WIDTH)

    return our_runs.plain_generator(network, layout, precision, PREFIX)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_red_cnn(precision):
    differences = cases.differences(ours(precision), published(precision))
    bounds = FLOAT32 if precision == "float32" else dict.fromkeys(differences, FLOAT64)
    assert exceeding(differences, bounds) == {}


def test_the_layout_is_that_of_the_published_keys_in_order():
    theirs = {key: tuple(value.shape) for key, value in REDCNN().state_dict().items()}
    layout = torch_layout.redcnn_layout()
    assert [(key, entry.shape) for key, entry in layout.items()] == list(theirs.items())


def test_a_published_checkpoint_denoises_alike_and_comes_back_bit_for_bit(tmp_path):
    """As its code saves one on several GPUs."""
    network = runs.filled(REDCNN(WIDTH), "float32", PREFIX)
    given = tmp_path / "REDCNN_43000iter.ckpt"
    torch.save(torch.nn.DataParallel(network).state_dict(), given)
    hu = np.random.default_rng(0).uniform(-1024, 3000, (2, 32, 48)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy((hu + 1024) / 4096)[:, None])[:, 0] * 4096 - 1024
    np.testing.assert_allclose(Denoiser.load(given)(hu), expected.numpy(), atol=0.05)

    convert.run(inputs=[given], output=tmp_path / "checkpoint")
    convert.run(inputs=[tmp_path / "checkpoint"], output=tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    network.load_state_dict(back, strict=True)
    for key, value in torch.load(given, weights_only=True).items():
        assert torch.equal(back[key.removeprefix("module.")], value)

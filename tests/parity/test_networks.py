import math

import pytest

pytest.importorskip(
    "torch", reason="PyTorch is not installed; make test installs it for Python 3.11")

from tests.parity import cases, our_runs
from tests.parity.cases import Difference, exceeding, within
from tests.parity.published import runs
from tests.parity.published.networks import PatchDiscriminator, UNet
from tests.reference import load

NETWORKS = {"unet": lambda: UNet(), "attn_unet": lambda: UNet(attention=True),
            "discriminator": lambda: PatchDiscriminator(channels=2)}

# Seen in float32: outputs 2e-6, running statistics 3e-7, single layers 6e-6. Of millions of
# inputs of a ReLU, rounding puts one or two on the other side of zero: that moves the
# gradients of single tensors by up to 1e-1, and all of them together by 3e-3 (9e-3 for the
# input's), and does so between PyTorch's own float32 and float64.
GENERATOR_FLOAT32 = {
    "output, running statistics": Difference(2e-6, 1e-6),
    "output, batch statistics": Difference(5e-6, 4e-6),
    "running statistics": Difference(1e-6, 2e-7),
    "layers": Difference(2e-5, 6e-6),
    "gradients of the parameters": Difference(math.inf, 1e-2),
    "gradient of the input": Difference(math.inf, 3e-2),
}
# Seen in float32: 2e-6.
DISCRIMINATOR_FLOAT32 = Difference(5e-6, 2e-6)
FLOAT64 = Difference(1e-8, 1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_twin_has_the_published_layout(name):
    layout = {key: tuple(value.shape) for key, value in NETWORKS[name]().state_dict().items()}
    assert list(layout.items()) == list(load.state_dict_shapes(name).items())


@pytest.mark.parametrize("attention", [False, True])
def test_the_twins_generator_gives_the_published_numbers(attention):
    reference = load.numbers("attn_unet" if attention else "unet")
    twin = runs.generator(attention, "float32", layers=())
    bound = Difference(5e-6, 5e-6)  # seen in the outputs: the same bits
    for name, mode in (("output_eval", "running"), ("output_train", "batch")):
        assert within(cases.difference(twin[f"output, {mode} statistics"],
                                       {"": reference[name]}), bound)
    after = {key.removeprefix("after/"): value for key, value in reference.items()
             if key.startswith("after/")}
    assert len(after) == (52 if attention else 36)
    assert within(cases.difference(twin["running statistics"], after), bound)


def test_the_twins_discriminator_gives_the_published_numbers():
    twin = runs.discriminator(2, "float32", layers=())
    assert within(cases.difference(twin["scores"], {"": load.numbers("discriminator")["output"]}),
                  Difference(5e-6, 5e-6))  # seen: the same bits


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("attention", [False, True])
def test_generator(attention, precision):
    layers = our_runs.generator_layers(attention=attention)
    # 18 3×3 convolutions and norms, 4 up, 3 down and 1 out; 9 stages. CBAM: 2 dense
    # layers, a convolution, a norm, 2 gates and itself, 8 times.
    assert len(layers) == 18 * 2 + 8 + 9 + (56 if attention else 0)
    ours = our_runs.generator(attention, precision)
    published = runs.generator(attention, precision, layers)
    differences = cases.differences(ours, published)
    bounds = (GENERATOR_FLOAT32 if precision == "float32"
              else dict.fromkeys(differences, FLOAT64))
    assert exceeding(differences, bounds) == {}
    # Seen: 2 in float32.
    assert cases.sign_changes(ours["layers"], published["layers"]) <= (
        20 if precision == "float32" else 0)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2])
def test_discriminator(channels, precision):
    layers = our_runs.discriminator_layers()
    assert len(layers) == 5
    differences = cases.differences(our_runs.discriminator(channels, precision),
                                    runs.discriminator(channels, precision, layers))
    bound = DISCRIMINATOR_FLOAT32 if precision == "float32" else FLOAT64
    assert exceeding(differences, dict.fromkeys(differences, bound)) == {}

import jax
import numpy as np
import pytest

from dfgan_jax.models.cnn10 import CNN10, CNN10Options
from dfgan_jax.models.generators import initial_variables
from dfgan_jax.porting import torch_layout
from dfgan_jax.porting.cnn10_layout import CNN10_LAYOUT
from dfgan_jax.porting.weights import read_weights
from dfgan_jax.support.errors import InputError
from tests.porting.test_weights import assert_equal, filled, generator, save, with_prefix


def cnn10(*, width=4):
    return filled(CNN10_LAYOUT.layout(CNN10Options(width=width)))


@pytest.mark.parametrize("width", [2, 64])
def test_any_width_has_the_shapes_of_flax(width):
    variables = jax.eval_shape(lambda: initial_variables(CNN10(width=width), jax.random.key(0)))
    layout = CNN10_LAYOUT.layout(CNN10Options(width=width))
    ours = torch_layout.from_state_dict(
        {key: np.zeros(entry.shape) for key, entry in layout.items()}, layout)
    assert jax.tree.map(np.shape, ours["params"]) == jax.tree.map(np.shape, variables["params"])


def test_keys_are_those_of_ldct_benchmark():
    assert {key: array.shape for key, array in cnn10(width=64).items()} == {
        "layers.0.weight": (64, 1, 9, 9), "layers.0.bias": (64,),
        "layers.2.weight": (32, 64, 3, 3), "layers.2.bias": (32,),
        "layers.4.weight": (1, 32, 5, 5), "layers.4.bias": (1,)}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_it_is_told_by_its_keys_and_goes_there_and_back(tmp_path, prefix):
    state_dict = cnn10()
    read = read_weights([save(tmp_path / "cnn10.pt", {
        "iteration": 3, "model_state_dict": with_prefix(prefix, state_dict)})])
    assert read.meta["config"]["generator"] == {
        "architecture": "cnn10", "attention": False, "width": 4}
    assert read.explanation[0].startswith("CNN-10, width 4, from ")
    assert_equal(read.weights.state_dicts()["generator"], state_dict)
    kernel = read.weights.generator["params"]["conv2"]["kernel"]
    assert kernel[2, 1, 3, 0] == state_dict["layers.2.weight"][0, 3, 2, 1]


def test_what_it_lacks_is_told_tensor_by_tensor(tmp_path):
    state_dict = cnn10()
    state_dict["layers.6.bias"] = state_dict.pop("layers.4.bias")
    with pytest.raises(InputError, match=r"closest known model is CNN-10, width 4:\n  missing "
                                         r"\(1\): layers\.4\.bias\n  left over \(1\): layers\.6"):
        read_weights([save(tmp_path / "x.pth", state_dict)])


@pytest.mark.parametrize("shape", [(4, 1, 3, 3), (4, 81)])
def test_another_list_of_layers_makes_none(tmp_path, shape):
    """Many networks have one: beside a generator it is no second generator."""
    others = {**cnn10(), "layers.0.weight": np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match=r"nor half the 6 of CNN-10 \(layers\.0\.weight, …, "):
        read_weights([save(tmp_path / "x.pth", others)])
    read = read_weights([save(tmp_path / "y.pth", {"G": generator(), "critic": others})])
    assert read.weights.architecture == "unet"

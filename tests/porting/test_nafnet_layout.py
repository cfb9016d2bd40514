import jax
import numpy as np
import pytest

from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.nafnet import NAFNet, NAFNetOptions
from dfgan_jax.porting import torch_layout
from dfgan_jax.porting.nafnet_layout import NAFNET_LAYOUT
from dfgan_jax.porting.weights import read_weights
from tests.porting.test_weights import assert_equal, filled, save, with_prefix

OPTIONS = NAFNetOptions(width=4, blocks="1,2,0,1,3")


@pytest.mark.parametrize("options", [OPTIONS, NAFNetOptions(width=2)])
def test_the_shapes_are_those_of_flax(options):
    network = NAFNet(width=options.width, blocks=options.blocks)
    variables = jax.eval_shape(lambda: initial_variables(network, jax.random.key(0)))
    layout = NAFNET_LAYOUT.layout(options)
    ours = torch_layout.from_state_dict(
        {key: np.zeros(entry.shape) for key, entry in layout.items()}, layout)
    assert jax.tree.map(np.shape, ours["params"]) == jax.tree.map(np.shape, variables["params"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_width_and_blocks_are_told_by_its_keys(tmp_path, prefix):
    state_dict = filled(NAFNET_LAYOUT.layout(OPTIONS))
    read = read_weights([save(tmp_path / "x.pth", {"params": with_prefix(prefix, state_dict)})])
    assert read.meta["config"]["generator"] == {
        "architecture": "nafnet", "attention": False, "width": 4, "blocks": "1,2,0,1,3"}
    assert read.explanation[0].startswith("NAFNet of 1,2,0,1,3 blocks, width 4, from ")
    assert_equal(read.weights.state_dicts()["generator"], state_dict)
    kernel = read.weights.generator["params"]["encoder1_1"]["conv2"]["kernel"]
    assert kernel[2, 1, 0, 3] == state_dict["encoders.1.1.conv2.weight"][3, 0, 2, 1]

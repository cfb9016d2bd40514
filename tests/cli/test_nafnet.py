"""NAFNet in its configurations."""

import pytest

from configs import nafnet
from dfgan_jax.cli.model_name import model_name
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.models.nafnet import NAFNet
from dfgan_jax.support.errors import InputError


@pytest.mark.parametrize(("variant", "options"), [
    ("", {}), ("demo", {"width": 16, "blocks": "1,1,2,2,2,1,1,1,1"}),
    ("native", {"width": 16, "blocks": "1,1,2,2,2,1,1,1,1"}),
    ("open", {"width": 16, "blocks": "1,1,2,2,2,1,1,1,1"})])
def test_it_is_trained_without_an_adversary(variant, options):
    config = nafnet.get_config(variant)
    networks = RunOptions.of(config).networks
    assert networks.discriminators == "none"
    assert networks.generator == NAFNet(**options, dtype="float32")
    assert model_name(config) == "NAFNet"


@pytest.mark.parametrize(("change", "message"), [
    ({"generator.blocks": "2,2"}, "config.generator.blocks is '2,2'; expected an odd number of co"),
    ({"generator.attention": True}, "attention is True; expected False, since NAFNet has no att"),
    ({"generator.architecture": "unet", "generator.blocks": "1,1,1"},
     "generator.blocks is '1,1,1'; expected '2,2,4,8,12,2,2,2,2', since the U-Net has n"),
])
def test_values_that_it_does_not_take_are_named(change, message):
    config = nafnet.get_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        RunOptions.of(config)

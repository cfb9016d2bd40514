import jax
import numpy as np
import pytest

from dfgan_jax.models.generators import initial_variables
from dfgan_jax.models.unet import UNet
from dfgan_jax.porting.weights import Weights
from dfgan_jax.support.errors import InputError
from dfgan_jax.training.state import with_weights
from tests.training.kept import counted


def zeros(**options):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(
        lambda: initial_variables(UNet(width=4, **options), jax.random.key(0))))


@pytest.mark.parametrize(("there", "differing"), [
    ({"normalization": "none"}, r"batch_stats/down1/norm1/mean: absent there, \(8,\) in the conf"),
    ({"add_image": False}, r"params/size_down2/bias: absent there, \(1,\) in the configuration; "
                           r"expected the same .* normalization and add_image")])
def test_weights_of_another_network_are_told_by_their_first_array(there, differing):
    state = counted(0)
    state.generator.update(zeros())
    with pytest.raises(InputError, match=r"its generator \(unet, width 4, no attention\) is not "
                                         f"that of the configuration: .* {differing}"):
        with_weights(state, Weights(discriminators={}, generator={
            **zeros(**there), "batches_tracked": {}}))

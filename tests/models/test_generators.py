import jax
import jax.numpy as jnp
import pytest

from dfgan_jax.models.generators import MIN_SIZE, build_generator, initial_variables
from dfgan_jax.models.redcnn import REDCNN
from dfgan_jax.models.unet import UNet
from dfgan_jax.support.errors import InputError


def test_a_generator_without_an_architecture_is_a_unet():
    assert build_generator(width=4, attention=True) == UNet(width=4, attention=True)
    assert build_generator(width=4, architecture="redcnn", dtype="bfloat16") == REDCNN(
        width=4, dtype="bfloat16")


@pytest.mark.parametrize("options", [{"architecture": "redcnn", "attention": True},
                                     {"architecture": "resnet"}])
def test_generators_that_there_are_not_are_refused(options):
    with pytest.raises(InputError, match="expected unet, or redcnn without attention"):
        build_generator(width=2, **options)


@pytest.mark.parametrize("architecture", ["unet", "redcnn"])
def test_every_generator_has_the_same_collections_and_takes_the_smallest_image(architecture):
    generator = build_generator(width=2, architecture=architecture)
    denoised, variables = jax.eval_shape(lambda: (
        generator.init_with_output(jax.random.key(0), jnp.zeros((1, MIN_SIZE, MIN_SIZE, 1)),
                                   train=False)[0],
        initial_variables(generator, jax.random.key(0))))
    assert denoised.shape == (1, MIN_SIZE, MIN_SIZE, 1)
    assert variables.keys() == {"params", "batch_stats"}
    assert bool(variables["batch_stats"]) == (architecture == "unet")

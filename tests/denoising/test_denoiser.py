import functools
import inspect
import itertools

import jax
import numpy as np
import pytest

from dfgan_jax.denoising import denoiser as denoising
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices.inference import Inference
from dfgan_jax.devices.parallel import run_once
from dfgan_jax.models.cnn10 import CNN10
from dfgan_jax.models.generators import build_generator, initial_variables
from dfgan_jax.models.unet import UNet
from dfgan_jax.porting.weight_file import write_weight_file
from dfgan_jax.scans import hounsfield
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.progress import Progress
from tests.models.drawn import drawn
from tests.porting.test_weights import generator


def as_a_user(denoiser, *arguments, **options):
    """Calls a denoiser without the check of types that the tests put around it."""
    return inspect.unwrap(type(denoiser).__call__)(denoiser, *arguments, **options)


@pytest.fixture(scope="module")
def unet():
    module = UNet(width=2)
    return module, drawn(jax.eval_shape(lambda: initial_variables(module, jax.random.key(0))))


@pytest.fixture(scope="module")
def network():
    """The network that compiles fastest, for what does not depend on it."""
    module = CNN10(width=2)
    return module, drawn(jax.eval_shape(lambda: initial_variables(module, jax.random.key(0))))


@pytest.fixture(scope="module")
def hu():
    return np.random.default_rng(0).normal(0, 300, (5, 32, 32)).astype(np.float32)


def test_is_the_network_between_hu_and_hu(unet, hu):
    module, variables = unet
    denoised = Denoiser(module, variables)(hu)
    expected = run_once(functools.partial(module.apply, train=False), variables,
                        ((hu + 500) / 500)[..., None])[..., 0]
    np.testing.assert_allclose(denoised, np.asarray(expected) * 500 - 500, atol=1e-2)
    assert denoised.dtype == np.float32


def test_batches_do_not_change_the_result(unet, hu):
    denoiser = Denoiser(*unet)
    whole = denoiser(hu)
    bar = Progress("denoising", total=5, unit="slices")
    np.testing.assert_allclose(denoiser(hu, batch_size=2, progress=bar), whole, atol=1e-3)
    np.testing.assert_allclose(denoiser(hu[3]), whole[3], atol=1e-3)
    assert bar.seconds_left() == 0


@pytest.mark.parametrize("batch_size", [-1, 0, 1.5, "2", True])
def test_a_batch_size_that_is_no_positive_whole_number_is_refused(network, hu, batch_size):
    with pytest.raises(InputError, match=rf"^batch_size is {batch_size!r}; expected a whole "
                                         r"number, 1 or more, or None$"):
        as_a_user(Denoiser(*network), hu, batch_size=batch_size)


def test_odd_sizes_are_padded_and_cropped(unet):
    denoiser = Denoiser(*unet)
    odd = np.random.default_rng(1).normal(0, 300, (2, 29, 45)).astype(np.int16)
    denoised = denoiser(odd)
    assert denoised.shape == odd.shape
    padded = np.pad(odd, [(0, 0), (0, 3), (0, 3)], mode="symmetric")
    np.testing.assert_allclose(denoised, denoiser(padded)[:, :29, :45], atol=1e-3)
    assert hounsfield.normalise(0.0) == 1.0


def test_slices_of_other_sizes_share_a_program_by_reflection(unet):
    denoiser = Denoiser(*unet)
    odd = np.random.default_rng(1).normal(0, 300, (2, 29, 45)).astype(np.float32)
    padded = np.pad(odd, [(0, 0), (0, 35), (0, 51)], mode="symmetric")
    np.testing.assert_array_equal(denoiser(odd, padded_size=(64, 96)),
                                  denoiser(padded)[:, :29, :45])
    for size in ((16, 96), (64, 97)):
        with pytest.raises(InputError, match=rf"padded_size is \({size[0]}, {size[1]}\); expected"):
            denoiser(odd, padded_size=size)


@pytest.mark.parametrize(("architecture", "shapes"), [
    ("unet", [(8, 32, 48)]), ("redcnn", [(2, 32, 48)] * 4)])
def test_slices_are_padded_and_batched_as_the_generator_states(monkeypatch, architecture, shapes):
    monkeypatch.setattr(denoising, "MAX_BATCH_PIXELS_ON_CPU", 8 * 24 * 40)
    denoiser = Denoiser(build_generator(width=2, architecture=architecture), {})
    denoiser.device_count = 1
    seen = []

    def apply(hu):
        seen.append(hu.shape)
        return hu, True

    denoiser._apply = apply
    hu = np.random.default_rng(0).normal(0, 300, (8, 24, 40)).astype(np.float32)
    np.testing.assert_allclose(denoiser(hu), hu, atol=1e-3)
    assert seen == shapes


@pytest.mark.parametrize("shape", [(4,), (0, 16, 16), (1, 2, 16, 16)])
def test_refuses_other_shapes(network, shape):
    with pytest.raises(InputError, match=r"expected \(H, W\) or \(N, H, W\)"):
        Denoiser(*network)(np.zeros(shape))


@pytest.mark.parametrize("dtype", [bool, complex, "U4", object])
def test_what_holds_no_numbers_is_refused(network, dtype):
    with pytest.raises(InputError, match=r"^qdct_hu is an array of .*; expected whole numbers, or"):
        as_a_user(Denoiser(*network), np.ones((16, 16)).astype(dtype))


def test_lists_of_numbers_are_denoised(network, hu):
    denoiser = Denoiser(*network)
    np.testing.assert_array_equal(as_a_user(denoiser, hu[0].tolist()), denoiser(hu[0]))


def test_masked_elements_are_refused_and_a_mask_of_none_is_not(network, hu):
    denoiser = Denoiser(*network)
    masked = np.ma.masked_array(hu[0], mask=False)
    np.testing.assert_array_equal(denoiser(masked), denoiser(hu[0]))
    masked[3, 4] = np.ma.masked
    with pytest.raises(InputError, match=r"^qdct_hu has masked elements; expected .*"
                                         r"qdct_hu\.filled\(VALUE\) fills them, in HU with -1024"):
        denoiser(masked)


def test_a_given_array_takes_the_result(network, hu):
    denoiser, out = Denoiser(*network), np.zeros_like(hu)
    assert denoiser(hu, out=out) is out
    np.testing.assert_array_equal(out, denoiser(hu))


@pytest.mark.parametrize(("out", "message"), [
    (np.zeros((5, 32, 32)), r"float64 of shape \(5, 32, 32\); expected an array of float32 of"),
    (np.zeros((4, 32, 32), np.float32), r"float32 of shape \(4, 32, 32\); .*\(5, 32, 32\)$"),
    (np.zeros((5, 1024), np.float32), r"float32 of shape \(5, 1024\); expected"),
    ([0.0], "list; expected an array of float32"),
    (np.broadcast_to(np.float32(0), (5, 32, 32)), "read-only; expected one to write into")])
def test_an_array_that_cannot_take_the_result_is_refused(network, hu, out, message):
    with pytest.raises(InputError, match=f"^out is {message}"):
        as_a_user(Denoiser(*network), hu, out=out)


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.5])
def test_strength_weighs_the_difference_map(network, hu, strength):
    padded = hu.copy()
    padded[:, :4] = -2000
    denoised = Denoiser(*network)(padded)
    weaker = Denoiser(*network, strength=strength)(padded)
    np.testing.assert_allclose(weaker, padded + strength * (denoised - padded), atol=1e-2)
    np.testing.assert_array_equal(weaker[:, :4], -2000)


def test_a_self_ensemble_is_the_mean_of_the_eight_flips_and_turns(network):
    single, ensemble = Denoiser(*network), Denoiser(*network, self_ensemble=True)
    slices = np.random.default_rng(3).normal(0, 300, (2, 32, 48)).astype(np.float32)
    slices[:, :3] = -2000
    flips = list(itertools.product([1, -1], [1, -1]))
    upright = [single(slices[:, ::v, ::h])[:, ::v, ::h] for v, h in flips]
    across = [single(slices[:, ::v, ::h].transpose(0, 2, 1)).transpose(0, 2, 1)[:, ::v, ::h]
              for v, h in flips]
    expected = np.mean(upright + across, axis=0)
    denoised = ensemble(slices)
    assert denoised.dtype == np.float32
    np.testing.assert_allclose(denoised, expected, atol=1e-2)
    np.testing.assert_array_equal(denoised[:, :3], -2000)
    assert np.abs(expected - single(slices)).max() > 1


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan")])
def test_a_strength_outside_its_range_is_refused(network, strength):
    with pytest.raises(InputError, match=r"strength is \S+; expected 0 to 1\.5"):
        Denoiser(*network, strength=strength)


@pytest.mark.parametrize(("unit", "scale", "offset"), [
    ("mu", 0.0192 / 1000, 0.0192), ("redcnn", 1 / 4096, 0.25), ("dfgan", 1 / 500, 1.0)])
def test_other_units_are_refused_or_denoised_in_place_of_hu(network, hu, unit, scale, offset):
    denoiser = Denoiser(*network)
    hu = np.clip(hu, -1000, None)
    values = hu * np.float32(scale) + np.float32(offset)
    with pytest.raises(InputError, match=rf"^qdct_hu: has values from .*look like .*: unit='{unit}'"
                                         " takes them"):
        denoiser(values)
    denoised = denoiser(values, unit=unit)
    assert denoised.dtype == np.float32
    np.testing.assert_allclose((denoised - offset) / scale, denoiser(hu), atol=0.05)
    with pytest.raises(InputError, match=r"qdct_hu has values from .*are they HU\?"):
        denoiser(hu, unit=unit)
    assert denoiser(values, unit=None).shape == hu.shape


@pytest.mark.parametrize("value", [-1024, 0, 0.5])
def test_slices_of_one_value_are_denoised(network, value):
    assert Denoiser(*network)(np.full((2, 16, 16), value, np.float32)).shape == (2, 16, 16)


@pytest.mark.parametrize("shape", [(64, 80, 3), (32, 32, 20)])
def test_axes_that_look_exchanged_are_refused(network, shape):
    text = ", ".join(map(str, shape))
    with pytest.raises(InputError, match=rf"shape \({text}\).*np\.moveaxis\(qdct_hu, -1, 0\) "
                                         "exchanges the axes, and unit=None takes HU as they are"):
        Denoiser(*network)(np.zeros(shape))


@pytest.mark.parametrize("shape", [(17, 16, 64), (16, 16, 24)])
def test_wide_slices_of_known_axes_are_denoised_in_any_batch(network, shape):
    """Those of a coronal reformat, in a batch that looks like (H, W, N)."""
    assert Denoiser(*network)(np.zeros(shape), unit=None).shape == shape


@pytest.mark.parametrize(("values", "message"), [
    ([-2e6, 500], r"slice 3; its values from -2e\+06 to 500 HU are the likely cause, expected at "
                  r"most 1e\+06 in magnitude$"),
    ([-500, 3e30], r"slice 3; its values from -500 to 3e\+30 HU are the likely cause"),
    ([-500, 9e5], "slice 3$")])
@pytest.mark.parametrize("self_ensemble", [False, True])
def test_the_slice_whose_output_is_not_finite_is_named(network, values, message, self_ensemble):
    denoiser = Denoiser(*network, self_ensemble=self_ensemble)
    denoiser._apply = lambda hu: (hu, (hu == 0).all((1, 2)))
    hu = np.zeros((5, 16, 16), np.float32)
    hu[3, 0] = np.resize(values, 16)
    with pytest.raises(InputError, match=f"^the model: its output is not finite for {message}"):
        denoiser(hu, batch_size=2, unit=None)


def test_a_training_domain_that_is_none_is_refused_with_its_file(tmp_path):
    write_weight_file(tmp_path / "x.safetensors", generator(), metadata={"trained_on": '{"a": 1}'})
    with pytest.raises(InputError, match=r"x\.safetensors: its metadata 'trained_on': no training "
                                         r"domain: \{'a': 1\}; expected a JSON object of noise_hu"):
        Denoiser.load(tmp_path / "x.safetensors")


def test_several_devices_give_the_bits_of_one(unet):
    generator, variables = unet
    hu = np.random.default_rng(2).normal(0, 300, (8, 32, 48)).astype(np.float32)
    several = Denoiser(generator, variables)
    assert several.device_count == 4
    one = Denoiser(generator, variables)
    one._apply = Inference(one._apply._function, variables, dtype=None,
                           devices=jax.local_devices()[:1])
    expected = one(hu, batch_size=2)
    np.testing.assert_array_equal(several(hu, batch_size=8), expected)
    np.testing.assert_array_equal(several(hu[:6], batch_size=6), expected[:6])  # three devices
    np.testing.assert_array_equal(several(hu), expected)


def test_each_device_takes_a_full_batch(network, monkeypatch):
    monkeypatch.setattr(denoising, "MAX_BATCH_PIXELS_ON_CPU", 2 * 32 * 48)
    denoiser = Denoiser(*network)
    sizes = []

    def apply(hu):
        sizes.append(len(hu))
        return hu, True

    denoiser._apply = apply
    denoiser(np.zeros((19, 32, 48), np.float32))
    assert sizes == [8, 8, 8]

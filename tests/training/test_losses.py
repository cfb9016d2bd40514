import math

import jax
import numpy as np
import pytest

from dfgan_jax.scans import hounsfield
from dfgan_jax.training import losses
from tests.reference import load


@pytest.mark.parametrize("name", ["intensity", "gradient"])
def test_value_and_gradient_agree_with_the_published_code(name):
    denoised = load.images("loss_prediction", (2, 1, 64, 64))
    ndct = load.images("loss_target", (2, 1, 64, 64))
    value, gradient = jax.value_and_grad(getattr(losses, name))(denoised, ndct)
    reference = load.numbers("losses")
    assert float(value) == pytest.approx(float(reference[name]), rel=1e-6)
    expected = load.nhwc(reference[f"{name}_grad"])
    np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max())


def test_adversarial_losses_agree_with_the_published_code():
    def scores(name):
        return 1 / (1 + np.exp(-load.images(name, (2, 1, 30, 30))))

    real, fake = scores("loss_real_score"), scores("loss_fake_score")
    reference = load.numbers("losses")
    assert float(losses.adversarial_generator(fake)) == pytest.approx(
        float(reference["adversarial_generator"]), rel=1e-6)
    assert float(losses.adversarial_discriminator(real, fake)) == pytest.approx(
        float(reference["adversarial_discriminator"]), rel=1e-6)


def test_gradient_pads_with_zero_on_the_right_and_at_the_bottom():
    ndct = np.array([[1.0, 3.0], [2.0, 2.0]])[None, ..., None]
    # Along y: |2−1|, |2−3| then |0−2|, |0−2|; along x: |3−1|, |0−3|, |2−2|, |0−2|.
    by_hand = (1 + 1 + 2 + 2 + 2 + 3 + 0 + 2) / 4
    assert float(losses.gradient(np.zeros_like(ndct), ndct)) == pytest.approx(by_hand)


def test_perfect_scores_cost_nothing():
    assert float(losses.adversarial_generator(np.ones(3))) == 0
    assert float(losses.adversarial_discriminator(np.ones(3), np.zeros(3))) == 0
    assert float(losses.adversarial_generator(np.zeros(3))) == 0.5


def test_intensity_in_other_forms_by_hand():
    denoised = np.array([[0.0, 3.0], [0.0, 0.0]], np.float32)[..., None, None] * np.ones(
        (2, 2, 1, 1), np.float32)
    ndct = np.zeros_like(denoised)  # squared errors 0 and 9; 0 and 0
    assert float(losses.intensity(denoised, ndct)) == pytest.approx(9 / 4)
    charbonnier = (3 * 1e-3 + math.sqrt(9 + 1e-6)) / 4
    assert float(losses.intensity(denoised, ndct, form="charbonnier")) == pytest.approx(charbonnier)
    by_slice = (math.log(4.5 + 1e-8) + math.log(1e-8)) / 2
    assert float(losses.intensity(denoised, ndct, form="log_squared")) == pytest.approx(by_slice)


def test_the_logarithm_weighs_each_slice_by_its_own_noise():
    """A slice's gradient is its squared error's over that error: noisy ones count no more."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 8, 8, 1)).astype(np.float32)
    noise[1] *= 100
    gradient = np.asarray(jax.grad(losses.intensity)(
        noise, np.zeros_like(noise), form="log_squared"))
    relative = (gradient * noise).sum((1, 2, 3))
    np.testing.assert_allclose(relative, 1.0, rtol=1e-4)  # 2 · error² / (2 slices · error²)


def test_what_is_added_to_a_slices_error_is_added_before_the_logarithm():
    denoised = np.full((2, 2, 2, 1), 2.0, np.float32)
    added = np.array([1.0, 5.0], np.float32)
    assert float(losses.intensity(denoised, np.zeros_like(denoised), added=added)) == (
        pytest.approx(4 + 3))
    assert float(losses.intensity(denoised, np.zeros_like(denoised), form="log_squared",
                                  added=added)) == pytest.approx((math.log(5) + math.log(9)) / 2)


def test_soft_tissue_weighs_more_by_the_normal_dose():
    ndct = np.array([0.0, 240.0, 241.0, -1000.0]).reshape(1, 2, 2, 1)
    ndct = np.asarray(hounsfield.normalise(ndct), np.float32)
    error = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2, 1).astype(np.float32)
    # Weights 3, 3, 1, 1, over their mean of 2.
    by_hand = (3 * 1 + 3 * 4 + 9 + 16) / 2 / 4
    assert float(losses.intensity(ndct + error, ndct, soft_tissue=3.0)) == pytest.approx(
        by_hand, rel=1e-5)


def test_a_smoothed_label_is_the_score_that_costs_nothing():
    assert float(losses.adversarial_discriminator(
        np.full(3, 0.9), np.zeros(3), real_label=0.9)) == pytest.approx(0)
    assert float(losses.adversarial_discriminator(
        np.ones(3), np.zeros(3), real_label=0.9)) == pytest.approx(0.005)

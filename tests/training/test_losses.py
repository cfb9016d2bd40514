import jax
import numpy as np
import pytest

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

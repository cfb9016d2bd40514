import numpy as np
import pytest

from dfgan_jax.denoising.strength import check_strength, strength_for_dose
from dfgan_jax.support.errors import InputError


@pytest.mark.parametrize(("dose_fraction", "strength"), [
    (0.05, 1.0), (0.25, 1.0), (0.5, 2 / 3), (0.7, 0.4)])
def test_a_known_dose_gives_the_strength(dose_fraction, strength):
    assert strength_for_dose(dose_fraction) == pytest.approx(strength)


@pytest.mark.parametrize("dose_fraction", [0.3, 0.5, 0.8])
def test_no_other_strength_is_closer_to_the_normal_dose(dose_fraction):
    """White noise of two doses, and a network that is right at a quarter of the dose."""
    random = np.random.default_rng(0)
    normal = random.normal(size=400_000)
    low = normal + random.normal(size=normal.size) * (1 / dose_fraction - 1) ** 0.5
    removed = (1 - 0.25) * low

    def error(strength):
        return np.mean(np.square(low - strength * removed - normal))

    strength = strength_for_dose(dose_fraction)
    assert error(strength) < min(error(strength - 0.02), error(strength + 0.02))


@pytest.mark.parametrize("dose_fraction", [0.0, 1.0, -0.5, 25.0, float("nan")])
def test_a_dose_fraction_outside_its_range_is_refused(dose_fraction):
    with pytest.raises(InputError, match=r"dose fraction is \S+; expected above 0 and below 1"):
        strength_for_dose(dose_fraction)


def test_a_strength_in_its_range_is_returned():
    assert check_strength(1.5) == 1.5

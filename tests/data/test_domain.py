import dataclasses

import numpy as np
import pytest

from dfgan_jax.data.domain import Domain, ScanProperties, measure, typical
from dfgan_jax.support.errors import InputError

KNOWN = Domain(noise_hu=(10.0, 30.0), kernel_lp_cm=(3.0, 4.0), pixel_spacing_mm=(0.6, 0.9),
               size=(256, 512), simulated=True, slices=24)


def test_ranges_are_percentiles_of_the_slices():
    scans = [ScanProperties(float(noise), 3.0, 0.7) for noise in range(1, 102)]
    domain = Domain.of(scans, sizes=[512, 512, 256], simulated=False)
    assert domain.noise_hu == (6.0, 96.0)  # 5 and 95 % of 1, 2 … 101
    assert domain.kernel_lp_cm == (3.0, 3.0)
    assert (domain.size, domain.simulated, domain.slices) == ((256, 512), False, 101)


def test_slices_that_show_no_noise_leave_the_others_as_they_are():
    scans = [ScanProperties(None, None, 2.8), ScanProperties(20.0, 3.0, 2.8)]
    assert Domain.of(scans, sizes=[128], simulated=True).noise_hu == (20.0, 20.0)
    assert Domain.of(scans[:1], sizes=[128], simulated=True).noise_hu is None
    assert typical(scans) == scans[1]
    assert typical(scans[:1]) == scans[0]
    assert typical([*scans, ScanProperties(40.0, 5.0, 2.8)]) == ScanProperties(30.0, 4.0, 2.8)


@pytest.mark.parametrize(("scan", "phrases"), [
    (ScanProperties(20.0, 3.5, 0.7), []),
    # Within 15 % of a range is within it; less noise is no reason to warn.
    (ScanProperties(34.0, 2.7, 1.0), []),
    (ScanProperties(1.0, 3.5, 0.7), []),
    (ScanProperties(40.0, 3.5, 0.7),
     ["noise of 40 HU above the 10 to 30 that the model was trained on"]),
    (ScanProperties(20.0, 6.0, 0.4),
     ["kernel with an f50 of 6 lp/cm above the 3 to 4 that the model was trained on",
      "pixels of 0.4 mm below the 0.6 to 0.9 that the model was trained on"]),
    (ScanProperties(None, None, 0.7), []),
])
def test_scans_outside_are_told(scan, phrases):
    assert KNOWN.leaves(scan) == phrases


def test_what_is_not_known_of_the_model_is_no_reason():
    phantoms = Domain(noise_hu=None, kernel_lp_cm=None, pixel_spacing_mm=(2.8, 2.8),
                      size=(128, 128), simulated=True, slices=24)
    assert phantoms.leaves(ScanProperties(90.0, 9.0, 2.8)) == []
    assert phantoms.leaves(ScanProperties(90.0, 9.0, 0.7)) == [
        "pixels of 0.7 mm below the 2.8 to 2.8 that the model was trained on"]
    assert str(phantoms) == "simulated low doses, pixels of 2.8 to 2.8 mm"
    # Pairs do not tell whether their low dose was acquired.
    assert str(dataclasses.replace(phantoms, simulated=False)) == (
        "low doses as given, pixels of 2.8 to 2.8 mm")
    assert Domain.from_json(phantoms.as_json()) == phantoms


def test_json_gives_the_domain_back():
    assert Domain.from_json(KNOWN.as_json()) == KNOWN


@pytest.mark.parametrize("changes", [
    {"noise_hu": [30.0, 10.0]}, {"pixel_spacing_mm": None}, {"noise_hu": 5.0}, {"size": [0, 4]},
    {"kernel_lp_cm": ["a", "b"]}, {"noise_hu": [1.0, 2.0, 3.0]}])
def test_json_of_something_else_is_refused(changes):
    (name,) = changes
    with pytest.raises(InputError, match=rf"^no training domain: {name} is .*; expected two "
                                         r"numbers above 0, the lower one first$"):
        Domain.from_json({**KNOWN.as_json(), **changes})
    for other in ({**KNOWN.as_json(), "colour": "red"}, {"a": 1}):
        with pytest.raises(InputError, match=r"^no training domain: \{.*\}; expected a JSON object "
                                             "of noise_hu, kernel_lp_cm, .*, slices$"):
            Domain.from_json(other)
    with pytest.raises(InputError, match="no training domain"):
        Domain.from_json(["noise"])


def test_a_slice_without_tissue_shows_its_pixels_alone():
    assert measure(np.full((64, 64), -1000, np.float32), pixel_spacing_mm=0.7) == (None, None, 0.7)

import dataclasses

import numpy as np
import pytest

from dfgan_jax.simulation.low_dose import (
    MIN_SIGNAL,
    OUTSIDE_HU,
    REFERENCE_ATTENUATION,
    ScanProtocol,
    count_photons,
    incident_photons,
    iterate_pairs,
    log_transform,
    modulate_tube_current,
    scan,
    simulate_pair,
    simulate_pairs,
    simulation_hash,
    thin_counts,
)
from dfgan_jax.simulation.projection import KERNELS
from dfgan_jax.support.errors import InputError


def _water(size: int, radius: float = 0.3) -> np.ndarray:
    centres = (np.arange(size) + 0.5) / size - 0.5
    return np.where(np.hypot(centres, centres[:, None]) < radius, 0, -1000).astype(np.float32)


def test_variance_of_log_counts_is_one_over_the_mean():
    rng = np.random.default_rng(0)
    line_integrals = np.full(100_000, 3.0, np.float32)
    counts = count_photons(rng, line_integrals, photons_per_ray=2e4)
    mean = 2e4 * np.exp(-3)
    assert counts.mean() == pytest.approx(mean, rel=2e-3)
    measured = log_transform(rng, counts, photons_per_ray=2e4, electronic_noise_std=0)
    assert measured.mean() == pytest.approx(3 + 0.5 / mean, abs=5e-4)
    assert measured.var() == pytest.approx(1 / mean, rel=0.03)
    noisy = log_transform(rng, counts, photons_per_ray=2e4, electronic_noise_std=30)
    assert noisy.var() == pytest.approx(1 / mean + 900 / mean**2, rel=0.03)


def test_log_of_starved_rays_is_limited():
    measured = log_transform(np.random.default_rng(0), np.zeros(5, np.int64),
                             photons_per_ray=1e4, electronic_noise_std=0)
    np.testing.assert_allclose(measured, np.log(1e4 / MIN_SIGNAL), rtol=1e-6)


def test_thinned_counts_are_poisson_and_share_the_noise():
    rng = np.random.default_rng(1)
    counts = rng.poisson(400, 200_000)
    low = thin_counts(rng, counts, dose_fraction=0.25)
    assert low.mean() == pytest.approx(100, rel=2e-3)
    assert low.var() == pytest.approx(100, rel=0.02)
    # Cov = fraction · Var(counts), so the correlation is √fraction.
    assert np.corrcoef(counts, low)[0, 1] == pytest.approx(0.5, abs=0.01)


def test_quarter_dose_doubles_the_noise():
    protocol = ScanProtocol(tube_current_modulation=0, electronic_noise_std=0)
    rng = np.random.default_rng(2)
    water = _water(64)
    scans = np.array([scan(rng, water, protocol=protocol) for _ in range(12)])
    core = _water(64, radius=0.2) == 0
    noise = scans.std(axis=0)[:, core].mean(axis=1)
    assert noise[1] / noise[0] == pytest.approx(2, rel=0.06)
    assert scans.mean(axis=0)[:, core].mean(axis=1) == pytest.approx([0, 0], abs=3)
    difference = scans[:, 1] - scans[:, 0]
    assert difference.std(axis=0)[core].mean() / noise[0] == pytest.approx(3**0.5, rel=0.08)


def test_noise_in_hu_does_not_depend_on_the_size():
    noise = []
    protocol = ScanProtocol(kernel="soft")  # its frequencies matter at 256² only
    for size, scans in ((64, 6), (256, 1)):
        rng = np.random.default_rng(3)
        core = _water(size, radius=0.2) == 0
        differences = [np.subtract(*scan(rng, _water(size), protocol=protocol))[core]
                       for _ in range(scans)]
        noise.append(np.std(differences))
    assert noise[1] == pytest.approx(noise[0], rel=0.1)


def test_a_kernel_of_an_f50_has_the_shape_of_soft():
    slices = [scan(np.random.default_rng(0), _water(64), protocol=ScanProtocol(kernel=kernel))
              for kernel in ("soft", KERNELS["soft"][0], 5.0)]
    np.testing.assert_array_equal(slices[0], slices[1])
    assert slices[2][0].std() > slices[0][0].std()


def test_protocol_at_another_size_keeps_views_photons_and_pitch():
    protocol = ScanProtocol()
    for size in (64, 128, 512):
        scaled = protocol.at_size(size)
        assert scaled.views % 4 == 0
        assert scaled.views * scaled.photons_per_ray / size**2 == pytest.approx(
            protocol.views * protocol.photons_per_ray / 256**2)
        # The variance that electronic noise adds, over that of the photons, stays.
        assert scaled.electronic_noise_std**2 / scaled.photons_per_ray == pytest.approx(
            protocol.electronic_noise_std**2 / protocol.photons_per_ray)
    assert protocol.at_size(256) == protocol


def test_bowtie_and_tube_current():
    photons = incident_photons(np.array([-1.0, 0.0, 0.6]), photons_per_ray=100.0,
                               bowtie_attenuation=2.0)
    np.testing.assert_allclose(photons, [100 * np.exp(-2), 100, 100 * np.exp(-0.4)])
    line_integrals = np.array([[0, 1, REFERENCE_ATTENUATION], [0, 5, 1]], np.float32)
    current = modulate_tube_current(line_integrals, tube_current_modulation=0.5)
    np.testing.assert_allclose(current, [[1], [np.exp((5 - REFERENCE_ATTENUATION) / 2)]],
                               rtol=1e-6)


def test_slices_have_the_padding_and_the_range_of_scanners():
    ndct, qdct = simulate_pair(0, size=64, seed=0, split="train")
    for image in (ndct, qdct):
        assert image.dtype == np.float32
        assert image.min() == OUTSIDE_HU
        assert (image[[0, 0, -1, -1], [0, -1, 0, -1]] == OUTSIDE_HU).all()
    assert not np.array_equal(ndct, qdct)


def test_a_slice_is_the_same_whatever_else_is_simulated():
    arguments = {"size": 64, "seed": 7, "split": "test"}
    ndct, qdct = simulate_pairs(5, threads=2, **arguments)
    single_ndct, single_qdct = simulate_pair(3, **arguments)
    np.testing.assert_array_equal(ndct[3], single_ndct)
    np.testing.assert_array_equal(qdct[3], single_qdct)
    for index, pair in enumerate(iterate_pairs(3, threads=1, **arguments)):
        np.testing.assert_array_equal(pair, [ndct[index], qdct[index]])


@pytest.mark.parametrize("other", [{"seed": 8}, {"split": "train"}, {"index": 1}])
def test_seeds_splits_and_indices_give_different_patients(other):
    arguments = {"index": 0, "size": 64, "seed": 7, "split": "test"}
    first, second = (simulate_pair(**kind)[0] for kind in (arguments, arguments | other))
    assert np.abs(first - second).mean() > 20


def test_hash_names_everything_that_determines_the_images():
    protocol = ScanProtocol()
    names = {simulation_hash(size=256, seed=0, protocol=protocol)}
    assert names == {simulation_hash(size=256, seed=0)}
    names |= {simulation_hash(size=128, seed=0), simulation_hash(size=256, seed=1)}
    changed = {"kernel": "ramp"}
    for field in dataclasses.fields(ScanProtocol):
        value = changed.get(field.name) or getattr(protocol, field.name) * (
            2 if field.type in ("int", int) else 1.1)
        names.add(simulation_hash(size=256, seed=0,
                                  protocol=dataclasses.replace(protocol, **{field.name: value})))
    assert len(names) == 3 + len(dataclasses.fields(ScanProtocol))


@pytest.mark.parametrize(("name", "value"), [
    ("dose_fraction", 0.0), ("dose_fraction", 1.0), ("dose_fraction", float("nan")),
    ("views", 90), ("photons_per_ray", 0.0), ("electronic_noise_std", -1.0),
    ("field_of_view_mm", 10.0), ("kernel", "B99"), ("kernel", 0.0), ("kernel", float("inf")),
    ("bowtie_attenuation", -1.0), ("tube_current_modulation", 1.5),
])
def test_wrong_protocols_are_refused(name, value):
    with pytest.raises(InputError, match=f"^{name} is .*expected"):
        ScanProtocol(**{name: value})


def test_wrong_requests_are_refused():
    with pytest.raises(InputError, match="count is 0; expected"):
        simulate_pairs(0, size=64, seed=0, split="train")
    with pytest.raises(InputError, match="seed is -1; expected"):
        simulate_pairs(1, size=64, seed=-1, split="train")
    with pytest.raises(InputError, match="index is -1; expected 0 or more"):
        simulate_pair(-1, size=64, seed=0, split="train")
    with pytest.raises(InputError, match="seed is -1; expected"):
        simulate_pair(0, size=64, seed=-1, split="train")
    with pytest.raises(InputError, match="dose_fraction is 2; expected"):
        thin_counts(np.random.default_rng(0), np.ones(3, np.int64), dose_fraction=2)
    with pytest.raises(InputError, match=r"shape \(3, 4\); expected"):
        scan(np.random.default_rng(0), np.zeros((3, 4), np.float32))
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match="values that are NaN or infinite; expected finite HU"):
            scan(np.random.default_rng(0), np.full((64, 64), value, np.float32))

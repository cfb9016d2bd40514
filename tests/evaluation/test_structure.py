import numpy as np
import pytest
import scipy.ndimage

from dfgan_jax.evaluation.structure import Structure, anatomy_bands, fit_structure, pooled


@pytest.fixture(scope="module")
def anatomy():
    """Discs of many sizes and contrasts, with edges a pixel soft."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:200, :200]
    hu = np.zeros((200, 200))
    for _ in range(60):
        row, column, radius = rng.uniform(0, 200), rng.uniform(0, 200), rng.uniform(2, 25)
        cover = np.clip(0.5 + radius - np.hypot(rows - row, columns - column), 0, 1)
        hu += cover * (rng.normal(0, 300) - hu)
    return hu.astype(np.float32)


@pytest.fixture(scope="module")
def body():
    mask = np.zeros((200, 200), bool)
    mask[10:190, 10:190] = True
    return mask


def noise(seed, std):
    return np.random.default_rng(seed).normal(0, std, (200, 200)).astype(np.float32)


def test_removed_noise_is_no_anatomy(anatomy, body):
    ndct = anatomy + noise(1, 20)
    structure, fitted = fit_structure(noise(2, 40), ndct, body)
    assert structure.explained < 1e-3
    assert structure.rms_hu < 1
    assert structure.pixels == 180**2
    assert not fitted[~body].any()


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.5])
def test_blur_removes_anatomy_alone(anatomy, body, sigma):
    removed = scipy.ndimage.gaussian_filter(anatomy, sigma) - anatomy
    structure, fitted = fit_structure(removed, anatomy, body)
    assert structure.explained > 0.95
    assert structure.rms_hu == pytest.approx(removed[body].std(), rel=0.03)
    assert np.corrcoef(fitted[body], removed[body])[0, 1] > 0.975
    assert fitted[body].mean() == pytest.approx(0, abs=1e-4)


def test_a_known_mixture_has_its_share(anatomy, body):
    """30 HU of the finest band and 60 HU of noise: 900 / (900 + 3600) of the power."""
    band = anatomy - scipy.ndimage.gaussian_filter(anatomy, 1.0)
    band *= 30 / band[body].std()
    structure, fitted = fit_structure(band + noise(3, 60), anatomy, body)
    assert structure.explained == pytest.approx(0.2, abs=0.01)
    assert structure.rms_hu == pytest.approx(30, rel=0.03)
    np.testing.assert_allclose(fitted[body], (band - band[body].mean())[body], atol=10)


def test_noise_of_the_ndct_is_not_taken_for_anatomy(anatomy, body):
    """Removed noise that the NDCT shares would be explained in full without a threshold."""
    shared = noise(4, 25)
    fine = shared - scipy.ndimage.gaussian_filter(shared, 1.0)
    structure, _ = fit_structure(-fine, shared, body)
    assert structure.explained < 0.05  # 2.9 % of a Gaussian's power lie beyond 3 σ
    structure, _ = fit_structure(-fine, anatomy + shared, body)
    assert structure.explained < 0.03


def test_bands_are_kept_beyond_three_standard_deviations(body):
    shared = noise(5, 25)
    shared[50, 50] = 2000
    bands = anatomy_bands(shared, body)
    fine = (shared - scipy.ndimage.gaussian_filter(shared, 1.0))[body]
    kept = bands[0] != 0
    np.testing.assert_array_equal(bands[0][kept], fine[kept])
    assert kept.mean() == pytest.approx(0.0027, abs=0.001)
    assert np.abs(fine[kept]).min() == pytest.approx(3 * np.std(fine[~kept]), rel=0.05)
    # The point, and what it leaves of itself in coarser bands.
    point = (np.cumsum(body.ravel()) - 1)[50 * 200 + 50]
    coarse = [scipy.ndimage.gaussian_filter(shared, sigma)[50, 50] for sigma in (1, 2, 4)]
    np.testing.assert_allclose(bands[:, point], -np.diff([2000.0, *coarse]), rtol=1e-4)


def test_constant_offsets_are_no_structure(anatomy, body):
    removed = scipy.ndimage.gaussian_filter(anatomy, 1.0) - anatomy
    expected, _ = fit_structure(removed, anatomy, body)
    shifted, _ = fit_structure(removed + 500, anatomy, body)
    assert shifted.explained == pytest.approx(expected.explained, rel=1e-4)
    assert shifted.rms_hu == pytest.approx(expected.rms_hu, rel=1e-4)


def test_what_is_not_there_has_no_number(anatomy, body):
    nothing, fitted = fit_structure(np.zeros((200, 200), np.float32), anatomy, body)
    assert nothing.explained is None
    assert nothing.rms_hu == 0
    assert not fitted.any()
    nowhere, fitted = fit_structure(noise(6, 5), anatomy, body & False)
    assert nowhere == Structure(0, 0.0, 0.0)
    assert nowhere.as_json() == {"explained": None, "rms_hu": None}
    assert not fitted.any()
    flat, _ = fit_structure(noise(6, 5), np.zeros((200, 200), np.float32), body)
    assert flat.explained == 0


def test_slices_are_pooled_by_power():
    total = pooled([Structure(100, 400.0, 100.0), Structure(300, 600.0, 0.0)])
    assert total == Structure(400, 1000.0, 100.0)
    assert total.as_json() == {"explained": 0.1, "rms_hu": 0.5}

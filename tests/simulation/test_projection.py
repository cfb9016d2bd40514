import numpy as np
import pytest

from dfgan_jax.scans.hounsfield import MU_WATER, mu_to_hu
from dfgan_jax.simulation.projection import KERNELS, ParallelBeam, kernel_mtf
from dfgan_jax.support.errors import InputError

SIZE, VIEWS, SPACING_MM = 64, 60, 3.0


def _disc(*, radius: float, x: float, y: float) -> np.ndarray:
    """(1, SIZE, SIZE) water disc, in pixels; edges averaged over 8×8 points a pixel."""
    fine = (np.arange(8 * SIZE) + 0.5) / 8 - SIZE / 2
    inside = np.hypot(fine - x, fine[:, None] - y) < radius
    share = inside.reshape(SIZE, 8, SIZE, 8).mean(axis=(1, 3))
    return (MU_WATER * share)[None].astype(np.float32)


@pytest.fixture(scope="module")
def beam():
    return ParallelBeam(size=SIZE, views=VIEWS, pixel_spacing_mm=SPACING_MM)


@pytest.mark.parametrize("bins_per_pixel", [1, 2])
def test_projection_of_a_disc_is_its_chord_length_in_every_octant(bins_per_pixel):
    beam = ParallelBeam(size=SIZE, views=VIEWS, pixel_spacing_mm=SPACING_MM,
                        bins_per_pixel=bins_per_pixel)
    radius, x, y = 15.0, 9.0, -5.0
    sinogram = beam.project(_disc(radius=radius, x=x, y=y))[0]
    angles = (np.arange(VIEWS) + 0.5) * np.pi / VIEWS
    fine = ((np.arange(beam.bins * 16) + 0.5) / 16 - beam.bins / 2) / bins_per_pixel
    offset = fine - (x * np.cos(angles) + y * np.sin(angles))[:, None]
    chords = 2 * np.sqrt(np.clip(radius**2 - offset**2, 0, None)) * SPACING_MM * MU_WATER
    expected = chords.reshape(VIEWS, beam.bins, 16).mean(axis=2)
    # The pixels' own width blurs the edges of the disc, where the chord is steep.
    edge = np.abs(np.abs(offset) - radius).reshape(VIEWS, beam.bins, 16).min(axis=2) < 3
    np.testing.assert_allclose(sinogram[~edge], expected[~edge], atol=0.03)
    np.testing.assert_allclose(sinogram, expected, atol=0.2)


@pytest.mark.parametrize("diameter", [1.0, 1.2])
def test_backprojection_is_the_adjoint(diameter):
    beam = ParallelBeam(size=32, views=20, pixel_spacing_mm=1.5, bins_per_pixel=2,
                        diameter=diameter)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 32, 32)).astype(np.float32)
    sinograms = rng.standard_normal((3, 20, beam.bins)).astype(np.float32)
    left = np.vdot(beam.project(images), sinograms)
    right = np.vdot(images, beam.backproject(sinograms))
    assert left == pytest.approx(right, rel=1e-4)


def test_every_view_has_the_mass_of_the_image(beam):
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 1, (2, SIZE, SIZE)).astype(np.float32)
    sums = beam.project(images).sum(axis=2) * beam.bin_spacing_mm
    mass = (images * beam.field_of_view).sum(axis=(1, 2)) * SPACING_MM**2
    np.testing.assert_allclose(sums, np.broadcast_to(mass[:, None], sums.shape), rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_reconstruction_of_a_disc_keeps_its_hu_and_its_place(kernel):
    beam = ParallelBeam(size=SIZE, views=96, pixel_spacing_mm=SPACING_MM, diameter=1.2)
    disc = _disc(radius=18, x=5, y=-7)
    slice_mu = beam.filtered_backproject(beam.project(disc), kernel=kernel)[0]
    centres = np.arange(SIZE) - (SIZE - 1) / 2
    distance = np.hypot(centres - 5, centres[:, None] + 7)
    assert mu_to_hu(slice_mu)[distance < 13].mean() == pytest.approx(0, abs=3)
    outside = (distance > 24) & (distance < 30)
    assert mu_to_hu(slice_mu)[outside].mean() == pytest.approx(-1000, abs=8)
    near = np.where(distance < 24, slice_mu, 0)
    assert (near * centres).sum() / near.sum() == pytest.approx(5, abs=0.05)
    assert (near * centres[:, None]).sum() / near.sum() == pytest.approx(-7, abs=0.05)


def test_a_batch_is_its_slices(beam):
    images = np.random.default_rng(2).uniform(0, 0.03, (3, SIZE, SIZE)).astype(np.float32)
    together = beam.project(images)
    for index in range(3):
        np.testing.assert_allclose(together[index], beam.project(images[index:index + 1])[0],
                                   rtol=1e-6)


def test_kernels_reach_the_documented_frequencies():
    for name, frequencies in KERNELS.items():
        if frequencies is not None:
            np.testing.assert_allclose(kernel_mtf(np.array([0, *frequencies]), name),
                                       [1, 0.5, 0.1], rtol=1e-6)
    assert (kernel_mtf(np.linspace(0, 9, 5), "ramp") == 1).all()


@pytest.mark.parametrize(("arguments", "name"), [
    ({"size": 4}, "size"), ({"views": 6}, "views"), ({"views": 0}, "views"),
    ({"pixel_spacing_mm": 0.0}, "pixel_spacing_mm"), ({"bins_per_pixel": 0}, "bins_per_pixel"),
    ({"diameter": 0.0}, "diameter"),
])
def test_wrong_geometry_is_refused(arguments, name):
    with pytest.raises(InputError, match=f"^{name} is .*expected"):
        ParallelBeam(**({"size": 16, "views": 8, "pixel_spacing_mm": 1.0} | arguments))


def test_wrong_arrays_and_kernels_are_refused(beam):
    with pytest.raises(InputError, match=r"images have shape .* expected"):
        beam.project(np.zeros((SIZE, SIZE), np.float32))
    with pytest.raises(InputError, match=r"sinograms have shape .* expected"):
        beam.backproject(np.zeros((1, VIEWS, beam.bins + 1), np.float32))
    with pytest.raises(InputError, match="kernel is 'B99'; expected a frequency in lp/cm or one "):
        kernel_mtf(np.zeros(1), "B99")

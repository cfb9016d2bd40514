"""Parallel-beam projection, back-projection and filtered back-projection.

Images are (N, size, size) float32, row index downwards; sinograms are
(N, views, bins) float32. View k is at angle (k + 1/2)·180°/views: a point at column
x to the right of the centre and row y below it (in pixels) lands at x·cos + y·sin on
the detector. Lengths are mm, attenuation is 1/mm, so sinograms have no unit.

Only the field of view, a circle about the image's centre, is projected and
reconstructed: a pixel outside is ignored by `project` and 0 after `backproject`.
"""

import numpy as np
import scipy.fft
import scipy.sparse
from jaxtyping import Float, Float32

from dfgan_jax.support.errors import InputError

KERNELS: dict[str, tuple[float, float] | None] = {
    "ramp": None,
    "soft": (3.5, 6.0),
    "medium": (4.5, 7.2),
    "sharp": (5.6, 8.8),
}
"""Apodisation of the ramp: frequencies [lp/cm] where it falls to 50 % and 10 %.

`soft` is near the abdominal kernels of clinical scanners (Siemens B30), `sharp` near
those for lung and detail (D45); `ramp` is not apodised.
"""


def check_kernel(kernel: str | float, *, name: str = "kernel", expected: str = "a frequency"
                 ) -> None:
    """Refuses a kernel that is neither a name in `KERNELS` nor an f50 [lp/cm].

    Args:
      kernel: see above.
      name: of the argument.
      expected: the start of what is expected of a text.

    Raises:
      InputError: the message names the argument.
    """
    if isinstance(kernel, str) and kernel not in KERNELS:
        raise InputError(f"{name} is {kernel!r}; expected {expected} in lp/cm or one of "
                         f"{', '.join(KERNELS)}")
    if not isinstance(kernel, str) and not 0 < kernel < np.inf:
        raise InputError(f"{name} is {kernel}; expected a frequency above 0 lp/cm")


def kernel_mtf(frequency_lp_cm: Float[np.ndarray, "*shape"], kernel: str | float
               ) -> Float[np.ndarray, "*shape"]:
    """Apodisation exp(−ln 2·(f/f50)^p), with p such that it is 0.1 at f10.

    The system's MTF is this times the averaging over the detector bin and the pixel.

    Args:
      frequency_lp_cm: any shape, line pairs per cm.
      kernel: a name in `KERNELS`, or f50 [lp/cm] of a kernel with the shape of `soft`.

    Returns:
      The factor on the ramp, 1 at frequency 0; the shape of the input.

    Raises:
      InputError: the kernel is neither.
    """
    check_kernel(kernel)
    if not isinstance(kernel, str):
        half_and_tenth = KERNELS["soft"]
        assert half_and_tenth is not None
        return kernel_mtf(frequency_lp_cm * (half_and_tenth[0] / kernel), "soft")
    half_and_tenth = KERNELS[kernel]
    if half_and_tenth is None:
        return np.ones_like(frequency_lp_cm)
    f50, _ = half_and_tenth
    mtf: np.ndarray = np.exp(-np.log(2)
                             * (np.abs(frequency_lp_cm) / f50) ** _power(*half_and_tenth))
    return mtf


def sharpened(f50_lp_cm: float, *, pixel_spacing_mm: float) -> float:
    """The kernel of `ParallelBeam` whose noise has a given f50, with one bin a pixel.

    The pixel is a box that blurs the noise: its MTF is that of the kernel times sinc. The detector
    bin blurs the object, but not its noise.

    Args:
      f50_lp_cm: of the noise in images, above 0.
      pixel_spacing_mm: pixel pitch, above 0.

    Returns:
      f50 [lp/cm] of the kernel, for `kernel_mtf`; at most four times the Nyquist frequency, from
      where on kernels hardly differ.
    """
    sharpest = 4 * 5 / pixel_spacing_mm
    blur = float(np.sinc(min(f50_lp_cm * pixel_spacing_mm / 10, 1)))
    if 2 * blur <= 1:
        return sharpest
    half_and_tenth = KERNELS["soft"]
    assert half_and_tenth is not None
    power = _power(*half_and_tenth)
    return min(f50_lp_cm / float((np.log(2 * blur) / np.log(2)) ** (1 / power)), sharpest)


def _power(f50: float, f10: float) -> float:
    """p of exp(−ln 2·(f/f50)^p), which is 0.1 at f10."""
    return float(np.log(np.log(10) / np.log(2)) / np.log(f10 / f50))


def _footprint_integral(position: np.ndarray, cos: float, sin: float) -> np.ndarray:
    """Area of a unit pixel left of `position` [pixel], seen along one view.

    The pixel's shadow is a trapezoid, the convolution of boxes of widths cos and
    sin (both above 0); this is its integral from −∞.
    """
    outer, inner = (cos + sin) / 2, (cos - sin) / 2
    corners = np.clip(position + outer, 0, None) ** 2 + np.clip(position - outer, 0, None) ** 2
    corners -= np.clip(position + inner, 0, None) ** 2 + np.clip(position - inner, 0, None) ** 2
    return corners / (2 * cos * sin)


class ParallelBeam:
    """A parallel-beam scan over 180° with exact strip integrals.

    A value of the sinogram is the mean line integral over the width of its detector
    bin, for an image of square pixels (trapezoid footprints: De Man & Basu 2004;
    Long, Fessler & Balter 2010). Only the views in (0°, 45°) are stored. The others
    are the same views of the transposed, rotated and mirrored image, further columns of
    one sparse-dense product.

    Args:
      size: image width and height in pixels.
      views: over 180°; a multiple of 4.
      pixel_spacing_mm: pixel pitch.
      bins_per_pixel: detector bins a pixel pitch.
      diameter: of the field of view, in image widths; 1 is the inscribed circle, and
        from 1.42 on the whole image is inside.
    """

    def __init__(self, *, size: int, views: int, pixel_spacing_mm: float,
                 bins_per_pixel: int = 1, diameter: float = 1.0):
        if size < 8:
            raise InputError(f"size is {size}; expected at least 8")
        if views < 4 or views % 4:
            raise InputError(f"views is {views}; expected a positive multiple of 4")
        if not pixel_spacing_mm > 0:
            raise InputError(f"pixel_spacing_mm is {pixel_spacing_mm}; expected above 0")
        if bins_per_pixel < 1:
            raise InputError(f"bins_per_pixel is {bins_per_pixel}; expected at least 1")
        if not 0 < diameter <= 2:
            raise InputError(f"diameter is {diameter}; expected above 0, at most 2")
        self.size = size
        self.views = views
        self.pixel_spacing_mm = pixel_spacing_mm
        self.bin_spacing_mm = pixel_spacing_mm / bins_per_pixel
        centres = np.arange(size) - (size - 1) / 2
        distance = np.hypot(centres, centres[:, None])
        self.field_of_view = distance <= diameter * size / 2
        """(size, size) bool: the pixels that are projected and reconstructed."""
        # A footprint reaches 0.71 pixels from its pixel's centre.
        self._half_width = int(np.ceil(distance[self.field_of_view].max() + 0.71))
        self.bins = 2 * self._half_width * bins_per_pixel
        rows, columns = np.nonzero(self.field_of_view)
        x, y = centres[columns], centres[rows]
        self._matrix = scipy.sparse.vstack(
            [self._view_matrix(x, y, (k + 0.5) * np.pi / views, bins_per_pixel)
             for k in range(views // 4)], format="csr")

    def _view_matrix(self, x: np.ndarray, y: np.ndarray, angle: float,
                     bins_per_pixel: int) -> scipy.sparse.csr_matrix:
        """(bins, pixels) mean path length [pixel] of one view's bins in each pixel."""
        cos, sin = np.cos(angle), np.sin(angle)
        centre = x * cos + y * sin
        first = np.floor((centre - (cos + sin) / 2 + self._half_width) * bins_per_pixel)
        touched = int(np.ceil((cos + sin) * bins_per_pixel)) + 1
        bins = first.astype(np.int32) + np.arange(touched, dtype=np.int32)[:, None]
        edges = np.concatenate([bins, bins[-1:] + 1]) / bins_per_pixel - self._half_width
        weights = np.diff(_footprint_integral(edges - centre, cos, sin), axis=0) * bins_per_pixel
        used = (weights > 1e-7) & (bins < self.bins)
        pixels = np.broadcast_to(np.arange(x.size, dtype=np.int32), bins.shape)
        return scipy.sparse.csr_matrix(
            (weights[used].astype(np.float32), (bins[used], pixels[used])),
            shape=(self.bins, x.size))

    def project(self, mu: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "n views bins"]:
        """Line integrals of attenuation images.

        Args:
          mu: (N, size, size) float32 [1/mm].

        Returns:
          (N, views, bins) float32.
        """
        if mu.ndim != 3 or mu.shape[1:] != (self.size, self.size):
            raise InputError(f"images have shape {mu.shape}; "
                             f"expected (N, {self.size}, {self.size})")
        octants = np.stack([mu, mu.swapaxes(1, 2), np.rot90(mu, 1, (1, 2)), mu[:, :, ::-1]])
        pixels = octants[..., self.field_of_view].reshape(-1, self._matrix.shape[1])
        columns = np.ascontiguousarray(pixels.T, dtype=np.float32)
        rays = self._matrix @ columns * np.float32(self.pixel_spacing_mm)
        first, second, third, fourth = rays.reshape(-1, self.bins, 4, len(mu)).transpose(2, 3, 0, 1)
        # Octants two and four run through their angles backwards.
        return np.concatenate([first, second[:, ::-1], third, fourth[:, ::-1]], axis=1)

    def backproject(self, sinograms: Float[np.ndarray, "..."]
                    ) -> Float32[np.ndarray, "n size size"]:
        """The adjoint of `project`.

        Args:
          sinograms: (N, views, bins) float32.

        Returns:
          (N, size, size) float32, 0 outside the field of view.
        """
        if sinograms.ndim != 3 or sinograms.shape[1:] != (self.views, self.bins):
            raise InputError(f"sinograms have shape {sinograms.shape}; "
                             f"expected (N, {self.views}, {self.bins})")
        first, second, third, fourth = np.split(sinograms, 4, axis=1)
        octants = np.stack([first, second[:, ::-1], third, fourth[:, ::-1]])
        columns = np.ascontiguousarray(octants.transpose(2, 3, 0, 1), dtype=np.float32)
        pixels = self._matrix.T @ columns.reshape(self._matrix.shape[0], -1)
        images = np.zeros((4, len(sinograms), self.size, self.size), np.float32)
        images[..., self.field_of_view] = pixels.T.reshape(4, len(sinograms), -1)
        first, second, third, fourth = images
        total = first + second.swapaxes(1, 2) + np.rot90(third, -1, (1, 2)) + fourth[:, :, ::-1]
        return total * np.float32(self.pixel_spacing_mm)

    def filtered_backproject(self, sinograms: Float[np.ndarray, "..."], *,
                             kernel: str | float = "soft", frequency_scale: float = 1.0
                             ) -> Float32[np.ndarray, "n size size"]:
        """Filtered back-projection (Kak & Slaney 1988, chapter 3).

        The ramp is sampled in the spatial domain (their equation 61): a ramp sampled
        in the frequency domain has a wrong value at 0 and shifts all HU.

        Args:
          sinograms: (N, views, bins) float32 line integrals.
          kernel: see `kernel_mtf`.
          frequency_scale: factor on the kernel's frequencies; 2 is twice as sharp.

        Returns:
          (N, size, size) float32 [1/mm], 0 outside the field of view.
        """
        length = scipy.fft.next_fast_len(2 * self.bins, real=True)
        lag = np.minimum(np.arange(length), length - np.arange(length))
        ramp = np.zeros(length)
        ramp[0] = 1 / 4
        ramp[lag % 2 == 1] = -1 / (np.pi * lag[lag % 2 == 1]) ** 2
        frequency_lp_cm = np.arange(length // 2 + 1) / (length * self.bin_spacing_mm / 10)
        response = scipy.fft.rfft(ramp).real * kernel_mtf(frequency_lp_cm / frequency_scale, kernel)
        # A pixel's paths [mm] sum to pixel² / bin over the bins of a view; the ramp,
        # sampled at the bins, carries 1 / bin² and its convolution a factor of one bin.
        response *= np.pi / self.views / self.pixel_spacing_mm ** 2
        spectrum = scipy.fft.rfft(sinograms, length, axis=-1) * response.astype(np.float32)
        return self.backproject(scipy.fft.irfft(spectrum, length, axis=-1)[..., :self.bins])

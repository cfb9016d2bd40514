"""One process of several that denoise a folder: a command for `test_tree_processes.py`.

Usage: python -m tests.denoising.process INPUT OUTPUT HOW COORDINATOR COUNT INDEX

HOW is the index of the process that dies; or `other input` or `other output`: process 1 has
INPUT-1 or OUTPUT-1 in their places; or `none`.
"""

import os
import pathlib
import signal
import sys

from dfgan_jax.denoising import denoiser, dicom_tree
from dfgan_jax.devices import processes
from dfgan_jax.devices.launchers import Place
from tests.denoising.test_dicom_tree import DERIVATION, FakeDenoiser, copy_volume


class Dying(FakeDenoiser):
    """Kills this process in the second batch."""

    def __call__(self, qdct_hu, **options):
        if len(self.shapes) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(qdct_hu, **options)


def main() -> None:
    source, output, how, coordinator, count, index = sys.argv[1:]
    if index == "1":
        source += "-1" if how == "other input" else ""
        output += "-1" if how == "other output" else ""
    processes.LOST_AFTER_S = 4.0
    denoiser.MAX_BATCH_PIXELS_ON_CPU = 2 * 32 * 32
    with processes.joined(Place(coordinator=coordinator, num_processes=int(count),
                                process_id=int(index))):
        summary = dicom_tree.denoise_tree(
            Dying() if how == index else FakeDenoiser(), derivation=DERIVATION,
            source=pathlib.Path(source), output=pathlib.Path(output), workers=0,
            denoise_volume=copy_volume)
        assert (pathlib.Path(output) / dicom_tree.SUMMARY).exists()
        print(summary["slices"], file=sys.stderr)


if __name__ == "__main__":
    main()

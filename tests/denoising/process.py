"""One process of several that denoise a folder: a command for `test_tree_processes.py`.

Usage: python -m tests.denoising.process INPUT OUTPUT DIES COORDINATOR COUNT INDEX
"""

import os
import pathlib
import signal
import sys

from dfgan_jax.denoising import dicom_tree
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.devices import processes
from dfgan_jax.devices.launchers import Place
from dfgan_jax.scans.dicom_derivation import Derivation

DERIVATION = Derivation(model="AttnDFGAN", weights_sha256="ab" * 32, version="1.2")


class AddsFive(Denoiser):
    """Adds 5 HU; the process with the index `dies` is killed in the second batch."""

    domain = None

    def __init__(self, *, dies: bool):
        self._dies, self._batches = dies, 0

    def __call__(self, qdct_hu, **options):
        self._batches += 1
        if self._dies and self._batches == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return qdct_hu + 5


def main() -> None:
    source, output, dies, coordinator, count, index = sys.argv[1:]
    processes.LOST_AFTER_S = 4.0
    dicom_tree.batch_size_of = lambda size: 2
    with processes.joined(Place(coordinator=coordinator, num_processes=int(count),
                                process_id=int(index))):
        summary = dicom_tree.denoise_tree(
            AddsFive(dies=dies == index), derivation=DERIVATION, source=pathlib.Path(source),
            output=pathlib.Path(output), workers=0)
        assert (pathlib.Path(output) / dicom_tree.SUMMARY).exists()
        print(summary["slices"], file=sys.stderr)


if __name__ == "__main__":
    main()

"""Reads and writes the slices of a folder beside the network, in processes or in threads.

Python runs one thread at a time, and most of the work on a DICOM file is Python's: so files of
one slice are read and written by processes, if there are enough of them. Pixels pass through
shared memory.
"""

import contextlib
import errno
import functools
import multiprocessing.shared_memory
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom import CTSlice
from dfgan_jax.scans.dicom_derivation import Derivation
from dfgan_jax.scans.dicom_header import SliceHeader
from dfgan_jax.scans.dicom_output import DicomOutput
from dfgan_jax.support.threads import THREADS

OPEN_BATCHES: Final = 3
"""One is read, one denoised and one written at a time."""

_BYTES_PER_PIXEL: Final = 5
"""Of the HU, and of the mask of pixels outside."""

_SHARED_MEMORY: Final = pathlib.Path("/dev/shm")
"""On Linux; other systems do not limit it."""


@runtime_checkable
class OpenSlice(Protocol):
    """A slice between reading and writing."""

    @property
    def header(self) -> SliceHeader:
        """Of the file or frame."""

    def hu(self) -> Float32[np.ndarray, "h w"]:
        """Waits for the slice, and returns its HU.

        Raises:
          InputError: the slice is broken.
        """

    def write(self, hu: Float32[np.ndarray, "h w"]) -> Future[int]:
        """Begins to write the slice with other HU; see `DicomOutput.write` for the result.

        Args:
          hu: (H, W), HU.
        """


class SliceFiles:
    """The files of a folder's slices, read and written; a context.

    Args:
      batches: headers of the slices, in the order of `read`.
      targets: path of each source → the path to write.
      derivation: how the written pixels are made.
      processes: for files of one slice; None: threads read and write them, as they do frames.
    """

    def __init__(self, batches: Sequence[Sequence[SliceHeader]],
                 targets: Mapping[pathlib.Path, pathlib.Path], *, derivation: Derivation,
                 processes: ProcessPoolExecutor | None):
        self._targets, self._derivation = targets, derivation
        self._output = DicomOutput(targets, derivation=derivation)
        self._threads = ThreadPoolExecutor(THREADS)
        self._processes = processes
        self._context = contextlib.ExitStack()
        self._read_batches = 0
        self._area = max((sum(map(_size, batch)) for batch in batches), default=0)
        if self._area and processes is not None:
            self._open_memory()

    def _open_memory(self) -> None:
        memory = multiprocessing.shared_memory.SharedMemory(create=True,
                                                            size=OPEN_BATCHES * self._area)
        try:
            _reserve(memory)
        except OSError as error:
            _release(memory)
            if error.errno != errno.ENOSPC:
                raise
            left = os.statvfs(_SHARED_MEMORY)
            print(f"note: {_SHARED_MEMORY} has {left.f_bavail * left.f_frsize / 1e6:,.0f} MB, "
                  f"{OPEN_BATCHES * self._area / 1e6:,.0f} MB are needed (docker run --shm-size): "
                  "slices are read and written by threads, which is slower", file=sys.stderr,
                  flush=True)
            self._processes = None
            return
        self._memory = memory
        self._context.callback(_release, memory)

    def __enter__(self) -> "SliceFiles":
        self._context.enter_context(self._output)
        self._context.enter_context(self._threads)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is not None and self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
        self._context.__exit__(kind, error, trace)

    def read(self, batch: Sequence[SliceHeader]) -> list[OpenSlice]:
        """Begins to read the slices of a batch.

        All slices of the batch before the last two are written.
        """
        start = self._area * (self._read_batches % OPEN_BATCHES)
        self._read_batches += 1
        opened: list[OpenSlice] = []
        for header in batch:
            if self._processes is None or header.frame is not None:
                reading = self._threads.submit(dicom.read_slice_of, header)
                opened.append(_InThread(header, reading, output=self._output,
                                        threads=self._threads))
                continue
            place = _Place(self._memory.name, start, (header.rows, header.columns))
            start += _size(header)
            opened.append(_InProcess(header, place, memory=self._memory,
                                     processes=self._processes,
                                     target=self._targets[header.path],
                                     derivation=self._derivation))
        return opened


class _InThread:
    """A slice that threads of this process read and write."""

    def __init__(self, header: SliceHeader, reading: Future[CTSlice], *, output: DicomOutput,
                 threads: ThreadPoolExecutor):
        self.header = header
        self._reading, self._output, self._threads = reading, output, threads

    def hu(self) -> Float32[np.ndarray, "h w"]:
        return self._reading.result().hu

    def write(self, hu: Float32[np.ndarray, "h w"]) -> Future[int]:
        return self._threads.submit(self._output.write, self._reading.result(), hu)


class _Place(NamedTuple):
    """The place of a slice's pixels in shared memory."""

    name: str
    start: int
    shape: tuple[int, int]

    def pixels(self, memory: multiprocessing.shared_memory.SharedMemory
               ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) float32 HU, and (H, W) bool of the pixels outside."""
        hu: np.ndarray = np.ndarray(self.shape, np.float32, memory.buf, self.start)
        return hu, np.ndarray(self.shape, bool, memory.buf, self.start + hu.nbytes)


def _size(header: SliceHeader) -> int:
    """Bytes of a slice in shared memory, aligned; 0 of a frame, which threads read."""
    size = header.rows * header.columns * _BYTES_PER_PIXEL
    return -(-size // 64) * 64 if header.frame is None else 0


def _reserve(memory: multiprocessing.shared_memory.SharedMemory) -> None:
    """Takes all pages of shared memory: where none is left, a write would kill the process."""
    if _SHARED_MEMORY.is_dir():
        with (_SHARED_MEMORY / memory.name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, memory.size)


def _release(memory: multiprocessing.shared_memory.SharedMemory) -> None:
    memory.unlink()
    with contextlib.suppress(BufferError):  # an array of an error's traceback is in it
        memory.close()


class _InProcess:
    """A slice that processes read and write."""

    def __init__(self, header: SliceHeader, place: _Place, *,
                 memory: multiprocessing.shared_memory.SharedMemory,
                 processes: ProcessPoolExecutor, target: pathlib.Path, derivation: Derivation):
        self.header = header
        self._place, self._memory, self._processes = place, memory, processes
        self._target, self._derivation = target, derivation
        self._reading = processes.submit(_read, header, place)

    def hu(self) -> Float32[np.ndarray, "h w"]:
        self._reading.result()
        hu, _ = self._place.pixels(self._memory)
        return hu

    def write(self, hu: Float32[np.ndarray, "h w"]) -> Future[int]:
        self.hu()[:] = hu
        return self._processes.submit(_write, self.header, self._place, self._target,
                                      self._derivation)


@functools.lru_cache(maxsize=1)
def _attached(name: str) -> multiprocessing.shared_memory.SharedMemory:
    return multiprocessing.shared_memory.SharedMemory(name)


def _read(header: SliceHeader, place: _Place) -> None:
    hu, outside = place.pixels(_attached(place.name))
    hu[:], outside[:], _ = dicom.read_pixels(header)


def _write(header: SliceHeader, place: _Place, target: pathlib.Path, derivation: Derivation
           ) -> int:
    hu, outside = place.pixels(_attached(place.name))
    return dicom.write_slice(target, dicom.read_stored(header, outside), hu,
                             derivation=derivation)

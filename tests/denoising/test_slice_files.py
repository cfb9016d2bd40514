import errno
import os
import re
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pydicom
import pytest

from dfgan_jax.denoising import dicom_tree, slice_files
from dfgan_jax.denoising.dicom_tree import denoise_tree
from dfgan_jax.denoising.slice_files import SliceFiles
from dfgan_jax.scans import dicom_folder
from dfgan_jax.scans.dicom import read_header, read_slice
from dfgan_jax.support.errors import ProcessError
from dfgan_jax.support.workers import start_workers
from tests.cli import command
from tests.denoising.test_dicom_tree import DERIVATION, SECOND_SERIES, FakeDenoiser, files, slices
from tests.scans import enhanced_files
from tests.scans.dicom_files import ramp, write

linux = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs Linux")


def run(tmp_path, output, *, workers, denoiser=None):
    return denoise_tree(denoiser or FakeDenoiser(), derivation=DERIVATION, source=tmp_path / "in",
                        output=tmp_path / output, workers=workers)


def test_processes_write_the_same_files_as_threads(tmp_path, monkeypatch, two_at_a_time):
    source = tmp_path / "in"
    slices(source / "a", 5)
    slices(source / "b", 3, stored=ramp((5, 7)), series=SECOND_SERIES)
    enhanced_files.write(source / "frames.dcm", series="1.2.826.0.1.3680043.8.498.3")
    cut = write(source / "cut.dcm", instance=9)
    cut.write_bytes(cut.read_bytes()[:-100])
    (source / "notes.txt").write_text("notes")
    stored = np.full((4, 4), 4093)
    write(source / "bright.dcm", stored=stored, padding=4093, instance=10)
    write(source / "brighter.dcm", stored=stored, instance=11)
    expected = run(tmp_path, "threads", workers=0)
    monkeypatch.setattr(dicom_folder, "_MANY_FILES", 2)
    actual = run(tmp_path, "processes", workers=2)
    assert actual == expected
    assert actual["saturated_pixels"] == 16
    assert list(actual["broken"]) == ["cut.dcm"]
    assert files(tmp_path / "processes") == files(tmp_path / "threads")
    for path in (tmp_path / "threads").rglob("*.dcm"):
        one, other = (pydicom.dcmread(each) for each in (
            path, tmp_path / "processes" / path.relative_to(tmp_path / "threads")))
        for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
            del one[keyword], other[keyword]
        assert one == other
        assert one.file_meta == other.file_meta


class Killing(FakeDenoiser):
    """Kills a worker in the second batch."""

    pool = None

    def __call__(self, qdct_hu, **options):
        if len(self.shapes) == 1:
            os.kill(next(iter(self.pool._processes)), signal.SIGKILL)
        return super().__call__(qdct_hu, **options)


def test_a_killed_worker_ends_the_run_which_can_be_resumed(tmp_path, monkeypatch, capsys,
                                                           two_at_a_time):
    slices(tmp_path / "in", 9)
    denoiser = Killing()

    def started(*arguments, **options):
        denoiser.pool = start_workers(*arguments, **options)
        return denoiser.pool

    with monkeypatch.context() as patched:
        patched.setattr(dicom_tree, "start_workers", started)
        with pytest.raises(ProcessError, match=r"was ended by the system, .* than 1 needs less"):
            run(tmp_path, "out", workers=1, denoiser=denoiser)
    assert re.search(r"of 9 slices in .*out\.incomplete; the same command resumes",
                     capsys.readouterr().err)
    assert run(tmp_path, "out", workers=0)["slices"] == 9
    for i in range(1, 10):
        np.testing.assert_array_equal(read_slice(tmp_path / "out" / f"0{i}.dcm").stored,
                                      ramp() + 5)


@pytest.mark.parametrize(("slices_per_worker", "started"), [(3, []), (2, [2])])
def test_by_default_workers_start_beside_an_accelerator_for_many_slices(
        tmp_path, monkeypatch, slices_per_worker, started):
    slices(tmp_path / "in", 4)
    counts = []

    def start(count, **options):
        counts.append(count)
        return start_workers(count, **options)

    monkeypatch.setattr(dicom_tree, "start_workers", start)
    monkeypatch.setattr(dicom_tree, "usable_cores", lambda: 2)
    monkeypatch.setattr(dicom_tree, "SLICES_PER_WORKER", slices_per_worker)
    run(tmp_path, "on a CPU", workers=None)
    assert counts == []
    monkeypatch.setattr(dicom_tree, "has_accelerator", lambda: True)
    run(tmp_path, "beside an accelerator", workers=None)
    assert counts == started


@linux
def test_without_shared_memory_threads_read_and_write(tmp_path, monkeypatch, capsys):
    slices(tmp_path / "in", 2)
    areas = []

    def full(descriptor, start, size):
        areas.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(os, "statvfs", lambda path: types.SimpleNamespace(f_bavail=0, f_frsize=1))
    assert run(tmp_path, "out", workers=2)["slices"] == 2
    assert re.search(r"note: .* has 0 MB, .* MB are needed \(docker run --shm-size\)",
                     capsys.readouterr().err)
    [area] = areas
    assert not os.path.exists(area)


@linux
def test_shared_memory_is_reserved_before_it_is_written(tmp_path):
    """Another program may take what is only counted."""
    header = read_header(write(tmp_path / "1.dcm", stored=ramp((64, 64))))
    with SliceFiles([[header]], {}, derivation=DERIVATION,
                    processes=ProcessPoolExecutor(1)) as opened:
        taken = os.stat(f"/dev/shm/{opened._memory.name}").st_blocks * 512
    assert taken >= slice_files.OPEN_BATCHES * 64 * 64 * (4 + 1)  # HU, and the mask


def test_a_worker_loads_no_jax():
    """Its import would take most of the start."""
    subprocess.run(
        [sys.executable, "-c", "import sys, dfgan_jax.denoising.slice_files\n"
         "sys.exit('jax' in sys.modules)"], cwd=command.ROOT, timeout=120, check=True)


def test_workers_end_with_a_killed_parent():
    script = ("from dfgan_jax.support.workers import start_workers\n"
              "import os\n"
              "if __name__ == '__main__':\n"
              "    pool = start_workers(1, modules=[])\n"
              "    print(pool.submit(os.getpid).result(), flush=True)\n"
              "    os.kill(os.getpid(), 9)\n")
    ended = subprocess.run([sys.executable, "-c", script], cwd=command.ROOT, text=True,
                           stdout=subprocess.PIPE, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    worker, deadline = int(ended.stdout), time.monotonic() + 60
    while os.path.exists(f"/proc/{worker}"):
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.05)

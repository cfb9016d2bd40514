import errno
import os
import resource
import stat
import subprocess
import sys

import pytest

from dfgan_jax.support import files, locks
from dfgan_jax.support.errors import InputError
from dfgan_jax.support.files import refuse_existing, remove_leftovers, scratch_beside, written_whole
from tests.cli.command import ROOT


def test_what_is_written_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name(tmp_path, monkeypatch):
    """After a power failure, a file that was renamed first can be of full size and zeros."""
    path, synced = tmp_path / "file", []

    def fsync(descriptor):
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size if stat.S_ISREG(status.st_mode) else None,
                       path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert not synced
    assert synced == [(path.stat().st_ino, 5, False), (tmp_path.stat().st_ino, None, True)]


def test_a_file_that_does_not_reach_the_disk_gets_no_name(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(os, "fsync", fsync)
    with (pytest.raises(OSError, match=r"No space left: '.*/file'$"),
          written_whole(tmp_path / "file") as temporary):
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_left_to_the_system(tmp_path, monkeypatch):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")  # as some file systems do

    monkeypatch.setattr(os, "fsync", fsync)
    with written_whole(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"


def test_several_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "file"
    with written_whole(path) as first, written_whole(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # that of the outer one, which ended last
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_what_stood_there_stays(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def write_half():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_exists_is_refused(tmp_path):
    refuse_existing(tmp_path / "absent")
    with pytest.raises(InputError, match="exists; choose another output"):
        refuse_existing(tmp_path)


@pytest.mark.parametrize(("error", "message"), [
    (OSError(errno.ENOSPC, "No space left"), r"No space left: '.*/file'$"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), r"Disk quota exceeded: '.*/file'$"),
    (OSError(errno.ENOSPC, "No space left", "other"), "No space left: 'other'$"),
    (OSError(errno.EIO, "Broken disk"), "Broken disk$")])
def test_a_full_disk_is_told_by_name(tmp_path, error, message):
    with pytest.raises(OSError, match=message), written_whole(tmp_path / "file"):
        raise error


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / name for name in ("a", ".a", ".a.0123", f".a.{'g' * 16}", f"a.{'0' * 16}",
                                         f".b.{'0' * 16}", "sub")]
    (tmp_path / "sub").mkdir()
    for path in [*kept[:-1], tmp_path / "sub" / f".a.{'0' * 16}", tmp_path / f".a.{'0' * 16}",
                 tmp_path / f".d.dcm.{'f' * 16}"]:
        path.touch()
    with scratch_beside(tmp_path / "c") as scratch:
        (tmp_path / "left").mkdir()
        (tmp_path / "left" / "file").touch()
        name = scratch.name
    (tmp_path / "left").rename(tmp_path / name)
    remove_leftovers([tmp_path / "a", tmp_path / "c", tmp_path / "d.dcm", tmp_path / "absent/a"])
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert len(list((tmp_path / "sub").iterdir())) == 1


SCRATCH = """
import pathlib, sys, time
from dfgan_jax.support.files import scratch_beside
with scratch_beside(pathlib.Path(sys.argv[1])) as folder:
    (folder / "unpacked").touch()
    print("there", flush=True)
    time.sleep(100)
"""


def test_scratch_of_killed_processes_goes_and_that_of_others_stays(tmp_path):
    path = tmp_path / "new" / "out"
    with subprocess.Popen([sys.executable, "-c", SCRATCH, path], cwd=ROOT,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"there\n"
        left, = path.parent.iterdir()
        with scratch_beside(path) as ours, scratch_beside(path) as inner:
            assert set(path.parent.iterdir()) == {left, ours, inner}
        other.kill()
    assert list(path.parent.iterdir()) == [left]
    (path.parent / f".other.{'0' * 16}").mkdir()
    (path.parent / f".out.{'0' * 16}").touch()  # no folder, so perhaps of one that writes now
    with scratch_beside(path) as ours:
        assert not left.exists()
    assert len(list(path.parent.iterdir())) == 2


def test_where_nothing_can_be_locked_scratch_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    (tmp_path / f".out.{'0' * 16}").mkdir()
    with scratch_beside(tmp_path / "out") as scratch:
        assert scratch.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [f".out.{'0' * 16}"]


def test_the_limit_of_open_files_rises_as_far_as_the_system_lets_it():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(100, hard), hard))
        files.allow_open_files(50)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(150, hard), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

import pytest

from dfgan_jax.errors import InputError
from dfgan_jax.files import refuse_existing, written_whole


def test_what_is_written_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


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
    with pytest.raises(InputError, match="exists; choose another --output"):
        refuse_existing(tmp_path)

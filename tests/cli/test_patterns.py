import pathlib

import pytest

from dfgan_jax.cli.patterns import paths_of
from dfgan_jax.support.errors import InputError


@pytest.fixture(autouse=True)
def _tree(tmp_path, monkeypatch):
    for name in ("LDCT/L2/s/Full Dose-1", "LDCT/L1/s/Full Dose-1", "LDCT/L1/s/Low Dose-1",
                 "scan [1]", "a,b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "LDCT/notes.txt").touch()
    monkeypatch.chdir(tmp_path)


def names(*texts):
    return [list(map(str, group)) for group in paths_of("ndct", texts)]


def test_a_pattern_stands_for_what_matches_it_sorted():
    assert names("LDCT/*/*/Full Dose*") == [["LDCT/L1/s/Full Dose-1", "LDCT/L2/s/Full Dose-1"]]
    assert names("LDCT/**/Low*") == [["LDCT/L1/s/Low Dose-1"]]
    assert names("LDCT/n?tes.*") == [["LDCT/notes.txt"]]


def test_entries_are_separated_by_commas_and_taken_once():
    assert names("LDCT/L2,LDCT/L[12]", "LDCT/L2", "absent") == [
        ["LDCT/L2"], ["LDCT/L1"], ["absent"]]


def test_what_exists_is_a_path_also_with_the_characters_of_a_pattern_or_a_comma():
    assert names("scan [1]", "a,b") == [["scan [1]"], ["a,b"]]


def test_homes_are_expanded_in_every_entry(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = pathlib.Path(tmp_path)
    assert paths_of("ndct", ["absent,~/LDCT/L?"])[1] == [home / "LDCT/L1", home / "LDCT/L2"]


@pytest.mark.parametrize(("text", "message"), [
    ("LDCT/*/*Full Doze*", r"--qdct: nothing matches the pattern 'LDCT/\*/\*Full Doze\*'"),
    ("LDCT,X*", r"--qdct: nothing matches the pattern 'X\*'"),
    ("scan [2]", r"--qdct: nothing matches the pattern 'scan \[2\]'"),
    ("LDCT,,a", "--qdct: 'LDCT,,a' has an empty entry"),
    ("LDCT, ", "--qdct: 'LDCT, ' has an empty entry")])
def test_a_pattern_without_a_match_and_an_empty_entry_are_named(text, message):
    with pytest.raises(InputError, match=message):
        paths_of("qdct", [text])

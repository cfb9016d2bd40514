import pytest

from dfgan_jax.support.wording import counted, nearest, printable


@pytest.mark.parametrize(("count", "text"), [(0, "0 slices"), (1, "1 slice"), (2, "2 slices")])
def test_numbers_agree_with_their_noun(count, text):
    assert counted(count, "slice") == text


def test_the_nearest_name_is_near():
    assert nearest("siz", ["crop", "size"]) == " (did you mean 'size'?)"
    assert nearest("siz", ["crop", "augment"]) == ""


def test_text_is_one_line_without_control_characters_or_addresses():
    text = "cannot read\n<io.BytesIO object at 0x7f148b6ef600>\x1b[31m"
    assert printable(text) == "cannot read <io.BytesIO object>?[31m"
    assert printable("offset at 0x1f") == "offset at 0x1f"
    assert printable("abcdef", limit=3) == "abc…"

import pytest

from dfgan_jax.support.wording import counted, nearest


@pytest.mark.parametrize(("count", "text"), [(0, "0 slices"), (1, "1 slice"), (2, "2 slices")])
def test_numbers_agree_with_their_noun(count, text):
    assert counted(count, "slice") == text


def test_the_nearest_name_is_near():
    assert nearest("siz", ["crop", "size"]) == " (did you mean 'size'?)"
    assert nearest("siz", ["crop", "augment"]) == ""

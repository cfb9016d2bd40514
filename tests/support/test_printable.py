from dfgan_jax.support.safe_pickle import printable


def test_text_is_one_line_without_control_characters_or_addresses():
    text = "cannot read\n<io.BytesIO object at 0x7f148b6ef600>\x1b[31m"
    assert printable(text) == "cannot read <io.BytesIO object>?[31m"
    assert printable("offset at 0x1f") == "offset at 0x1f"
    assert printable("abcdef", limit=3) == "abc…"

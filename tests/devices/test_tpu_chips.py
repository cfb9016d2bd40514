import pytest

from dfgan_jax.devices import tpu_chips


@pytest.mark.parametrize(("present", "installed", "platforms", "expected"), [
    (True, True, None, True), (True, True, "", True), (True, True, "tpu,cpu", True),
    (True, True, "cpu", False), (True, False, None, False), (False, True, None, False)])
def test_chips_are_usable_with_their_library_where_jax_may_take_them(
        monkeypatch, present, installed, platforms, expected):
    monkeypatch.setattr(tpu_chips.glob, "glob", lambda pattern: ["/dev/accel0"] * present)
    monkeypatch.setattr(tpu_chips.importlib.util, "find_spec",
                        lambda name: object() if installed else None)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if platforms is not None:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert tpu_chips.usable() is expected

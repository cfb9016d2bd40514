import numpy as np
import pytest

from dfgan_jax.errors import InputError
from dfgan_jax.inference import Denoiser
from dfgan_jax.modes import denoise
from tests.modes import command
from tests.porting.test_weights import generator, save


@pytest.fixture
def weights(tmp_path):
    return save(tmp_path / "gan.pth", generator())


def hu(shape):
    return np.random.default_rng(0).normal(0, 300, shape).round()


@pytest.mark.parametrize(("shape", "dtype"), [
    ((32, 48), np.int16), ((17, 20, 33), np.float64), ((1, 16, 16), np.float32)])
def test_denoises_arrays_as_the_denoiser_does(tmp_path, weights, shape, dtype):
    array = hu(shape).astype(dtype)
    np.save(tmp_path / "in.npy", array)
    denoise.run(checkpoint_path=str(weights), source=tmp_path / "in.npy",
                output=tmp_path / "new" / "out.npy")
    denoised = np.load(tmp_path / "new" / "out.npy", allow_pickle=False)
    assert denoised.dtype == np.float32
    np.testing.assert_array_equal(denoised, Denoiser.load(weights)(array))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.npy"]


@pytest.mark.parametrize(("content", "message"), [
    (hu((2, 2, 16, 16)), r"expected \(H, W\) or \(N, H, W\)"),
    (hu((0, 16, 16)), r"expected \(H, W\) or \(N, H, W\)"),
    (np.float32(3), r"expected \(H, W\) or \(N, H, W\)"),
    (np.array(["a"]), "an array of numbers in HU"),
    (np.array({"f_qd": 1}), "expected an .npy of an array in HU"),
    (np.where(np.arange(3)[:, None, None] == 1, np.nan, hu((3, 16, 16))), "slice 1 has a NaN"),
])
def test_arrays_that_cannot_be_denoised_are_named(tmp_path, weights, content, message):
    path = tmp_path / "in.npy"
    np.save(path, content)
    with pytest.raises(InputError, match=rf"in\.npy: .*{message}"):
        denoise.run(checkpoint_path=str(weights), source=path, output=tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    assert not list(tmp_path.glob(".out*"))


def test_an_output_that_is_not_finite_is_no_result(tmp_path):
    huge = {key: array * np.float32(1e30) for key, array in generator().items()
            if array.dtype == np.float32}
    np.save(tmp_path / "in.npy", hu((16, 16)))
    with pytest.raises(InputError, match=r"gan\.pth: its output is not finite"):
        denoise.run(checkpoint_path=str(save(tmp_path / "gan.pth", huge)),
                    source=tmp_path / "in.npy", output=tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


def test_outputs_are_npy_and_never_overwritten(tmp_path, weights):
    np.save(tmp_path / "in.npy", hu((16, 16)))
    with pytest.raises(InputError, match="exists"):
        denoise.run(checkpoint_path=str(weights), source=tmp_path / "in.npy",
                    output=tmp_path / "in.npy")
    with pytest.raises(InputError, match=r"ends in \.npy"):
        denoise.run(checkpoint_path=str(weights), source=tmp_path / "in.npy",
                    output=tmp_path / "out.dcm")


def test_the_command_line_denoises(tmp_path, weights):
    np.save(tmp_path / "in.npy", hu((3, 16, 16)))
    options = ["--mode=denoise", f"--input={tmp_path / 'in.npy'}", f"--output={tmp_path / 'o.npy'}"]
    done = command.run(*options, f"--checkpoint={weights}")
    assert done.returncode == 0, done.stderr
    assert "3 slices of 16×16" in done.stdout
    assert np.load(tmp_path / "o.npy").shape == (3, 16, 16)
    for rest, message in (([], "needs one --checkpoint=PATH; 0 are given"),
                          ([f"--checkpoint={weights}", "--input=b"], "needs one --input=PATH; 2")):
        done = command.run(*options, *rest)
        assert done.returncode == 1
        assert message in done.stderr

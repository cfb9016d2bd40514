"""Files that PyTorch and this project exchange."""

import numpy as np
import pytest

pytest.importorskip(
    "torch", reason="PyTorch is not installed; make test installs it for Python 3.11")

import safetensors.torch
import torch

from dfgan_jax.cli import convert
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.porting.torch_file import read_torch_file
from dfgan_jax.porting.weights import read_weights
from tests.parity.published.networks import PatchDiscriminator, UNet
from tests.reference import load

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool)


def published(*, attention, width=32):
    """The twin with weights and statistics that differ from their defaults."""
    torch.manual_seed(0)
    network = UNet(attention=attention, width=width)
    state_dict = network.state_dict()
    for value in state_dict.values():
        if value.dtype == torch.int64:
            value.fill_(26_200)
        elif value.ndim == 1:
            value.copy_(torch.rand(value.shape) + 0.5)
    network.load_state_dict(state_dict)
    return network.eval()


def equal(ours, theirs):
    assert list(ours) == list(theirs)
    return all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
               for key in theirs)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("save", [
    lambda tree, path: torch.save(tree, path),
    lambda tree, path: torch.save(tree, path, _use_new_zipfile_serialization=False),
    lambda tree, path: safetensors.torch.save_file(tree, path),
], ids=["zip", "legacy", "safetensors"])
def test_a_file_of_the_published_model_denoises_alike(tmp_path, attention, save):
    network = published(attention=attention)
    save(network.state_dict(), tmp_path / "gan.pth")
    qdct = load.images("generator", (2, 1, 64, 64))[..., 0]
    with torch.no_grad():
        expected = network(torch.from_numpy(qdct)[:, None])[:, 0].numpy()
    denoised = (Denoiser.load(tmp_path / "gan.pth")(qdct * 500 - 500) + 500) / 500
    assert np.abs(denoised - expected).max() < 2e-5 * expected.std()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".safetensors"])
def test_round_trip_through_a_checkpoint_is_bit_for_bit(tmp_path, suffix):
    networks = {"generator": published(attention=True),
                "joint_discriminator": PatchDiscriminator(channels=2)}
    torch.save({name: network.state_dict() for name, network in networks.items()},
               tmp_path / "both.pth")
    convert.run(inputs=[tmp_path / "both.pth"], output=tmp_path / "checkpoint")
    convert.run(inputs=[tmp_path / "checkpoint"], output=tmp_path / f"back{suffix}")
    for name, file in (("generator", f"back{suffix}"),
                       ("joint_discriminator", f"back.joint_discriminator{suffix}")):
        there = networks[name].state_dict()
        if suffix == ".safetensors":
            back = safetensors.torch.load_file(tmp_path / file)
            back = {key: back[key] for key in there}
        else:
            back = torch.load(tmp_path / file, weights_only=True)
        assert equal(back, there)
        networks[name].load_state_dict(back, strict=True)


def test_files_we_write_can_be_mapped_into_memory(tmp_path):
    torch.save(published(attention=False, width=2).state_dict(), tmp_path / "gan.pth")
    convert.run(inputs=[tmp_path / "gan.pth"], output=tmp_path / "ours.pth")
    back = torch.load(tmp_path / "ours.pth", weights_only=True, mmap=True)
    assert equal(back, torch.load(tmp_path / "gan.pth", weights_only=True))


def test_wrapped_models_are_recognised(tmp_path):
    """As DataParallel and torch.compile save them, beside an optimizer that has run."""
    network = published(attention=True, width=2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(1, 1, 16, 16)).sum().backward()
    optimizer.step()
    tree = {"epoch": 7, "model": torch.nn.DataParallel(network).state_dict(),
            "optimizer": optimizer.state_dict()}
    torch.save(tree, tmp_path / "wrapped.pth.tar")
    read = read_weights([tmp_path / "wrapped.pth.tar"])
    state_dict = read.weights.state_dicts()["generator"]
    assert equal({key: torch.from_numpy(value.copy()) for key, value in state_dict.items()},
                 network.state_dict())
    assert read.meta["epoch"] == 7


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_random_views_of_shared_storages_are_read_alike(tmp_path, is_zip, seed):
    rng = np.random.default_rng(seed)
    tree = {}
    for base in range(3):
        numbers = torch.from_numpy(rng.integers(0, 100, rng.integers(30, 60)))
        storage = numbers.to(DTYPES[rng.integers(len(DTYPES))])
        for view in range(4):
            size = tuple(int(n) for n in rng.integers(0, 4, rng.integers(0, 4)))
            stride = tuple(int(n) for n in rng.integers(0, 4, len(size)))
            tensor = torch.as_strided(storage, size, stride, int(rng.integers(0, 3)))
            tree[f"{base}.{view}"] = torch.nn.Parameter(tensor, requires_grad=False) if (
                view == 3) else tensor
    torch.save({"state": tree}, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    arrays = read_torch_file(tmp_path / "x.pth")["state"]
    assert list(arrays) == list(tree)
    for key, tensor in tree.items():
        assert arrays[key].shape == tuple(tensor.shape)
        assert np.array_equal(arrays[key].astype(np.float64), tensor.double().numpy())

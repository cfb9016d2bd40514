import itertools
import json
import pickle
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from dfgan_jax.porting import torch_layout, weight_file
from dfgan_jax.porting.torch_file import read_torch_file
from dfgan_jax.porting.weight_file import read_weight_file, write_weight_file
from dfgan_jax.porting.weights import explain_state_dicts, read_weights
from dfgan_jax.support.digests import file_digest
from dfgan_jax.support.errors import InputError
from tests.mutations import mutated, refusals
from tests.porting.torch_pickle import dump, storage, tensor, zip_file
from tests.reference.fill import tensor as fill


def filled(layout, seed=7):
    return {key: fill(key, entry.shape, seed) for key, entry in layout.items()}


def generator(*, attention=False, width=2, seed=7):
    return filled(torch_layout.generator_layout(attention=attention, width=width), seed)


def redcnn(*, width=2, seed=7):
    return filled(torch_layout.redcnn_layout(width=width), seed)


def discriminator(*, channels=2, width=2, seed=7):
    return filled(torch_layout.discriminator_layout(channels=channels, width=width), seed)


def save(path, tree):
    """What PyTorch would write of a tree of dicts, lists and arrays, byte by byte."""
    numbers = itertools.count()
    stored = {}

    def reference(node):
        if isinstance(node, dict):
            return {key: reference(value) for key, value in node.items()}
        if isinstance(node, list):
            return [reference(value) for value in node]
        if not isinstance(node, np.ndarray | np.generic):
            return node
        key = str(next(numbers))
        kind = {"float32": "FloatStorage", "int64": "LongStorage", "float64": "DoubleStorage",
                "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
                "int32": "IntStorage"}[node.dtype.name]
        stored[key] = node.tobytes()
        strides = tuple(int(np.prod(node.shape[i + 1:])) for i in range(node.ndim))
        return tensor(storage(key, node.size, kind=kind), size=node.shape, stride=strides)

    payload = dump(reference(tree))
    path.write_bytes(zip_file(payload, stored))
    return path


def with_prefix(prefix, state_dict):
    return {prefix + key: array for key, array in state_dict.items()}


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for key, array in theirs.items():
        assert ours[key].dtype == array.dtype
        np.testing.assert_array_equal(ours[key], array)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("width", [2, 16])
def test_the_keys_tell_the_model(tmp_path, attention, width):
    state_dict = generator(attention=attention, width=width)
    read = read_weights([save(tmp_path / "x.pth", state_dict)])
    assert (read.weights.attention, read.weights.width) == (attention, width)
    assert read.weights.discriminators == {}
    assert read.meta["config"] == {
        "generator": {"architecture": "unet", "attention": attention, "width": width},
        "discriminators": None, "dtype": "float32"}
    assert read.meta["source"] == [
        {"file": "x.pth", "sha256": file_digest(tmp_path / "x.pth")}]
    assert_equal(read.weights.state_dicts()["generator"], state_dict)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_red_cnn_is_told_by_its_published_keys(tmp_path, prefix):
    state_dict = redcnn(width=4)
    read = read_weights([save(tmp_path / "REDCNN_43000iter.ckpt", with_prefix(prefix, state_dict))])
    assert read.meta["config"] == {
        "generator": {"architecture": "redcnn", "attention": False, "width": 4},
        "discriminators": None, "dtype": "float32"}
    assert read.weights.generator_variables.keys() == {"params", "batch_stats"}
    assert_equal(read.weights.state_dicts()["generator"], state_dict)
    assert read.explanation[0].startswith("RED-CNN, width 4, from ")
    params = read.weights.generator["params"]
    assert params["conv2"]["kernel"][3, 1, 0, 2] == state_dict["conv2.weight"][2, 0, 3, 1]
    assert params["tconv2"]["kernel"][3, 1, 0, 2] == state_dict["tconv2.weight"][0, 2, 3, 1]


def test_a_red_cnn_that_lacks_something_is_told_tensor_by_tensor(tmp_path):
    state_dict = redcnn()
    state_dict["deconv1.weight"] = state_dict.pop("tconv1.weight")
    with pytest.raises(InputError, match=r"closest known model is RED-CNN, width 2:\n  missing "
                                         r"\(1\): tconv1\.weight\n  left over \(1\): deconv1"):
        read_weights([save(tmp_path / "x.pth", state_dict)])


def test_a_first_convolution_makes_no_red_cnn(tmp_path):
    """Many networks have one; a list of all that it lacks would help nobody."""
    state_dict = {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32),
                  "fc.weight": np.zeros((10, 64), np.float32)}
    with pytest.raises(InputError, match=r"holds 2 tensors \(conv1\.weight, fc\.weight, …\), none "
                                         r"of whose keys .* nor half the 20 of RED-CNN"):
        read_weights([save(tmp_path / "x.pth", state_dict)])


def test_kernels_lie_as_flax_has_them(tmp_path):
    state_dict = generator()
    params = read_weights([save(tmp_path / "x.pth", state_dict)]).weights.generator["params"]
    kernel = state_dict["down1.mpconv.1.conv.0.weight"]
    up = state_dict["up1.up.weight"]
    assert params["down1"]["conv1"]["kernel"][2, 1, 0, 3] == kernel[3, 0, 2, 1]
    assert params["up1_conv"]["kernel"][5, 0, 1, 3] == up[5, 3, 0, 1]


@pytest.mark.parametrize(("tree", "heading"), [
    (lambda g: g, r"DFGAN's U-Net, width 2, from \S+x\.pth, [\d,]+ parameters$"),
    (lambda g: {"epoch": 139, "state_dict": g}, "x.pth: state_dict,"),
    (lambda g: {"model": {"generator": with_prefix("module.", g)}},
     r"x\.pth: model\.generator, keys without their prefix 'module\.'"),
    (lambda g: {"Net": with_prefix("_orig_mod.module.", g), "Optimizer": {"state": {}}},
     r"x\.pth: Net, keys without their prefix '_orig_mod\.module\.'"),
    (lambda g: [g, 3], r"x\.pth: 0,"),
    (lambda g: {"state_dict": {**with_prefix("netG.", g), "loss.vgg.weight": np.float32([1])}},
     r"x\.pth: state_dict, keys without their prefix 'netG\.'"),
])
def test_containers_and_prefixes_are_found_and_told(tmp_path, tree, heading):
    state_dict = generator()
    read = read_weights([save(tmp_path / "x.pth", tree(state_dict))])
    assert_equal(read.weights.state_dicts()["generator"], state_dict)
    assert re.search(heading, read.explanation[0])
    assert read.meta["epoch"] == (139 if "epoch" in tree({}) else None)


def test_every_tensor_is_explained(tmp_path):
    state_dict = generator(attention=True)
    state_dict["outc.bias"] = state_dict["outc.bias"].astype(np.float64)
    del state_dict["inc.conv.conv.1.num_batches_tracked"]
    tree = {"G": state_dict, "adam": {"state": {0: {"exp_avg": np.float32([1, 2])}}},
            "ema": np.float32([3])}
    lines = read_weights([save(tmp_path / "x.pth", tree)]).explanation
    told = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert list(told) == list(torch_layout.generator_layout(attention=True))
    assert told["up1.up.weight"].split("(", 1)[1] == (
        "32, 16, 2, 2) float32     → params/up1_conv/kernel (32, 2, 2, 16), iohw → ihwo")
    assert told["outc.bias"].endswith("params/outc/bias (1,), as it is, float64 → float32")
    assert told["inc.conv.conv.1.num_batches_tracked"].split()[1:5] == ["not", "in", "the", "file"]
    assert lines[-1] == "Not used: beside them (1 tensors), adam (1 tensors)"


def test_variables_are_explained_on_the_way_back(tmp_path):
    weights = read_weights([save(tmp_path / "x.pth", {"G": generator(), "D": discriminator()})]
                           ).weights
    lines = explain_state_dicts(weights)
    assert lines[0] == "generator:"
    assert lines[1].split(maxsplit=1) == [
        "params/inc/conv1/kernel", "(3, 3, 1, 2) float32       → inc.conv.conv.0.weight "
        "(2, 1, 3, 3), hwio → oihw"]
    assert lines.count("joint:") == 1
    assert len(lines) == 2 + sum(map(len, weights.layouts().values()))
    weights = read_weights([save(tmp_path / "red.pth", redcnn())]).weights
    told = {line.split()[0]: line for line in explain_state_dicts(weights)}
    assert told["params/tconv5/kernel"].split(maxsplit=1)[1] == (
        "(5, 5, 2, 1) float32       → tconv5.weight (2, 1, 5, 5), hwio → iohw")


def test_half_precision_becomes_float32_exactly(tmp_path):
    state_dict = generator()
    for dtype in (np.float16, ml_dtypes.bfloat16):
        rounded = {key: array.astype(dtype) if array.dtype == np.float32 else array
                   for key, array in state_dict.items()}
        back = read_weights([save(tmp_path / "x.pth", rounded)]).weights.state_dicts()["generator"]
        for key, array in rounded.items():
            np.testing.assert_array_equal(back[key], array.astype(back[key].dtype))


@pytest.mark.parametrize(("roles", "trees"), [
    ({"joint": 2}, lambda d: {"discriminator": d["joint"]}),
    ({"image": 1, "difference": 1}, lambda d: {"D_image": d["image"], "D_diff": d["difference"]}),
    ({"image": 1, "difference": 1},
     lambda d: {"nets": with_prefix("img.", d["image"]) | with_prefix("diff.", d["difference"])}),
    ({"image": 1, "difference": 1},
     lambda d: {"diff_run": {"D_image": d["image"], "D_diff": d["difference"]}}),
])
def test_discriminators_are_told_apart(tmp_path, roles, trees):
    ours = {role: discriminator(channels=channels, seed=seed)
            for seed, (role, channels) in enumerate(roles.items())}
    path = save(tmp_path / "diffgan.pth", {"G": generator(), **trees(ours)})
    read = read_weights([path])
    assert read.meta["config"]["discriminators"] == ("joint" if len(roles) == 1 else "pair")
    state_dicts = read.weights.state_dicts()
    assert state_dicts.keys() == {"generator", *roles}
    for role, state_dict in ours.items():
        assert_equal(state_dicts[role], state_dict)


def test_networks_may_lie_in_several_files(tmp_path):
    image, difference = discriminator(channels=1, seed=1), discriminator(channels=1, seed=2)
    paths = [save(tmp_path / f"{name}.pth", tree) for name, tree in {
        "mydiff": generator(), "mydiff.difference_discriminator": difference,
        "mydiff.image_discriminator": image}.items()]
    state_dicts = read_weights(paths).weights.state_dicts()
    assert_equal(state_dicts["image"], image)
    assert_equal(state_dicts["difference"], difference)


def test_networks_may_share_a_container(tmp_path):
    """The discriminator's keys are not left over from the generator's."""
    tree = generator() | with_prefix("discriminator.", discriminator())
    assert read_weights([save(tmp_path / "x.pth", tree)]).weights.discriminators.keys() == {"joint"}


@pytest.mark.parametrize("extra", [
    {"D1": discriminator(channels=1), "D2": discriminator(channels=1, seed=1)},
    {"D_image": discriminator(channels=1)},
    {"D": discriminator(), "D_image": discriminator(channels=1)},
    {"D": discriminator(channels=3)},
    {"D_image": discriminator(channels=1), "D_diff": discriminator(channels=1, width=4)},
])
def test_discriminators_that_cannot_be_told_are_left_and_said(tmp_path, extra):
    read = read_weights([save(tmp_path / "x.pth", {"G": generator(), **extra})])
    assert read.weights.discriminators == {}
    assert any(line.startswith("Discriminators are not converted: expected one of 2 channels")
               for line in read.explanation)


def test_all_that_is_wrong_is_named_at_once(tmp_path):
    state_dict = generator(attention=True)
    del state_dict["outc.weight"], state_dict["up4.up.bias"]
    state_dict |= {"head.weight": np.float32([1]), "outc.bias": np.float32([1, 2]),
                   "size_down2.bias": np.array([1]), "size_down4.bias": np.float32([np.inf]),
                   "inc.conv.conv.1.num_batches_tracked": np.float32(3)}
    path = save(tmp_path / "x.pth", {"state_dict": with_prefix("module.", state_dict)})
    with pytest.raises(InputError) as caught:
        read_weights([path])
    assert str(caught.value).splitlines() == [
        f"{path}: state_dict: not a DFGAN generator or discriminator as it is; the closest known "
        "model is AttnDFGAN's U-Net with CBAM, width 2:",
        "  missing (2): module.up4.up.bias, module.outc.weight",
        "  left over (1): module.head.weight",
        "  of another shape (1): module.outc.bias (2,), expected (1,)",
        "  of another type (2): module.inc.conv.conv.1.num_batches_tracked float32, "
        "module.size_down2.bias int64",
        "  not finite (1): module.size_down4.bias"]


def test_a_discriminator_is_checked_as_well(tmp_path):
    wrong = discriminator()
    wrong["conv3.0.bias"] = np.float32([1])
    path = save(tmp_path / "x.pth", {"G": generator(), "D": wrong})
    with pytest.raises(InputError, match=r"conv3\.0\.bias \(1,\), expected \(8,\)"):
        read_weights([path])


def test_a_network_of_another_kind_is_refused_with_the_reason(tmp_path):
    path = save(tmp_path / "x.pth", {"Net": {"layer.0.weight": np.float32([[1]])}})
    with pytest.raises(InputError, match=r"Net: not a DFGAN generator: it holds 1 tensors "
                                         r"\(layer\.0\.weight, …\), none of whose keys"):
        read_weights([path])


def test_a_network_that_is_little_like_one_is_refused_key_by_key(tmp_path):
    path = save(tmp_path / "x.pth", {"outc.weight": np.zeros((1, 2, 3, 3), np.float32),
                                     "body.weight": np.float32([1])})
    with pytest.raises(InputError, match="closest known model is DFGAN's U-Net") as caught:
        read_weights([path])
    assert "missing (105)" in str(caught.value)
    assert "left over (1): body.weight" in str(caught.value)


@pytest.mark.parametrize(("tree", "message"), [
    ({"epoch": 3}, "it holds no dict of tensors"),
    (np.float32([1, 2]), "it holds no dict of tensors"),
    ({"D": discriminator()}, "but a discriminator"),
])
def test_a_file_without_a_generator_is_refused(tmp_path, tree, message):
    with pytest.raises(InputError, match=f"not a DFGAN generator.*{message}"):
        read_weights([save(tmp_path / "x.pth", tree)])


def test_of_several_generators_one_is_chosen_by_name(tmp_path):
    last, best = generator(seed=1), generator(seed=2)
    path = save(tmp_path / "x.pth", {"last": last, "best": {"ema": best}})
    with pytest.raises(InputError, match=r"holds 2 generators; --mode=convert --container=NAME "
                                         r"writes one of them, among 'last', 'best\.ema'$"):
        read_weights([path])
    chosen = read_weights([path], container="best.ema").weights.state_dicts()["generator"]
    assert_equal(chosen, best)
    with pytest.raises(InputError, match=r"no generator in 'worst'; there are "
                                         r"'best\.ema', 'last'"):
        read_weights([path], container="worst")


def test_a_generator_without_a_container_is_at_the_top(tmp_path):
    path = save(tmp_path / "x.pth", generator())
    with pytest.raises(InputError, match="no generator in 'x'; there are '', the top of the file"):
        read_weights([path], container="x")
    assert read_weights([path], container="").weights.width == 2


def test_generators_in_one_container_are_chosen_by_their_prefix(tmp_path):
    first, second = generator(seed=1), generator(seed=2)
    tree = {"nets": with_prefix("netG_A.", first) | with_prefix("netG_B.", second)}
    path = save(tmp_path / "x.pth", tree)
    with pytest.raises(InputError, match=r"among 'nets\.netG_A', 'nets\.netG_B'"):
        read_weights([path])
    chosen = read_weights([path], container="nets.netG_B").weights.state_dicts()["generator"]
    assert_equal(chosen, second)


def test_arrays_of_numpy_are_tensors_too(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(zip_file(pickle.dumps(generator(), protocol=2), {}))
    assert_equal(read_weights([path]).weights.state_dicts()["generator"], generator())


def test_a_tree_of_very_many_dicts_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(zip_file(b"\x80\x02](" + b"}" * 100_001 + b"e.", {}))
    with pytest.raises(InputError, match="more than 100,000 dicts and lists"):
        read_weights([path])


def test_containers_that_hold_themselves_are_read_once(tmp_path):
    """A dict under two names, and a list within itself."""
    payload = (b"\x80\x02}(X\x01\x00\x00\x00a" + dump({"w": tensor()})[2:-1] + b"q\x05"
               b"X\x01\x00\x00\x00bh\x05X\x01\x00\x00\x00c]q\x06h\x06au.")
    path = tmp_path / "x.pth"
    path.write_bytes(zip_file(payload))
    tree = read_torch_file(path)
    assert tree["a"] is tree["b"]
    assert tree["c"][0] is tree["c"]
    with pytest.raises(InputError, match="it holds 1 tensors"):
        read_weights([path])


def test_safetensors_are_read_by_their_content(tmp_path):
    state_dict = generator()
    path = tmp_path / "x.pth"  # named as if it were PyTorch's
    path.write_bytes(safetensors.numpy.save(state_dict))
    weights = read_weights([path]).weights
    assert_equal(weights.state_dicts()["generator"], state_dict)


WHOLE = safetensors.numpy.save({"a": np.ones(2, np.float32)})  # 8 + 56 + 8 bytes


@pytest.mark.parametrize(("content", "header", "size"), [
    ((2**60).to_bytes(8, "little") + WHOLE[8:], "1,152,921,504,606,846,976", "72"),
    (WHOLE[:40], "56", "40"), (WHOLE[:4], "56", "4"), (bytes(1000), "0", "1,000"),
    (b"\x89HDF\r\n\x1a\n" + bytes(92), "727,905,341,903,489,161", "100")])
def test_damaged_safetensors_are_not_taken_for_pickles(tmp_path, content, header, size):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.safetensors: is truncated, or no safetensors file: "
                                         f"its header says {header} bytes, the file has {size}$"):
        read_weight_file(tmp_path / "x.safetensors")


def test_a_pickle_or_json_named_as_safetensors_is_told_as_such(tmp_path):
    path = tmp_path / "x.safetensors"
    for content, message in ((b"\x80\x02N.", "a pickle, but not PyTorch's"),
                             (b"PK\x03\x04", "refused, or truncated: the file ends early"),
                             (b"{}", "is a JSON text")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_weight_file(path)


def test_broken_safetensors_are_refused(tmp_path, fuzz_files):
    content = safetensors.numpy.save({"a": np.ones(2, np.float32), "b": np.ones(1, np.float16)})
    path = tmp_path / "x.safetensors"
    rng = np.random.default_rng(0)
    messages = refusals(read_weight_file, path, (
        copy[:rng.integers(len(content) // 2, len(content) + 1)]
        for copy in mutated(content, count=fuzz_files, rng=rng)))
    assert len(messages) > fuzz_files / 2
    assert all(line.startswith((f"{path}: refused", f"{path}: is truncated")) and "\n" not in line
               for line in messages)
    path.write_bytes((1 << 25).to_bytes(8, "little") + b"{" + bytes(1 << 25))
    with pytest.raises(InputError, match=r"its header has 33,554,432 bytes; at most 16,777,216"):
        read_weight_file(path)


def safetensors_file(path, tensors):
    """A file of tensors: key → type, shape and bytes."""
    header, content = {}, b""
    for key, (kind, shape, data) in tensors.items():
        header[key] = {"dtype": kind, "shape": shape,
                       "data_offsets": [len(content), len(content) + len(data)]}
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


@pytest.mark.parametrize(("kind", "dtype"), [
    ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)])
def test_eight_bits_of_safetensors_are_read_beside_other_types(tmp_path, kind, dtype):
    narrow, wide = np.arange(6).reshape(2, 3).astype(dtype), np.array(3, ml_dtypes.bfloat16)
    read = read_weight_file(safetensors_file(tmp_path / "x.safetensors", {
        "narrow": (kind, [2, 3], narrow.tobytes()), "wide": ("BF16", [], wide.tobytes())}))
    assert {key: array.dtype for key, array in read.items()} == {
        "narrow": narrow.dtype, "wide": wide.dtype}
    np.testing.assert_array_equal(read["narrow"], narrow)
    np.testing.assert_array_equal(read["wide"], wide)


def test_types_of_safetensors_that_are_not_read_are_named(tmp_path):
    path = safetensors_file(tmp_path / "x.safetensors", {"w": ("F8_E8M0", [2], b"ab")})
    with pytest.raises(InputError, match=r"x\.safetensors: w is of the type F8_E8M0; expected "
                                         r"one of F64, .*, F8_E5M2$"):
        read_weight_file(path)


@pytest.mark.parametrize(("text", "message"), [
    ("{", r"are not JSON: \{"), ("[1]", r"are \[1\]; expected a JSON object"),
    ("0", "are 0; expected a JSON object")])
def test_a_training_domain_that_is_no_object_is_refused_with_its_file(tmp_path, text, message):
    write_weight_file(tmp_path / "x.safetensors", generator(), metadata={"trained_on": text})
    with pytest.raises(InputError, match=rf"x\.safetensors: its metadata 'trained_on' {message}$"):
        read_weights([tmp_path / "x.safetensors"])


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pth.tar", "x.safetensors"])
def test_files_are_written_by_their_suffix(tmp_path, name):
    state_dict = generator()
    path = tmp_path / "new" / name
    assert weight_file.has_suffix(path)
    write_weight_file(path, state_dict, metadata={"model": "DFGAN"})
    back = read_weight_file(path)
    assert back.keys() == state_dict.keys()
    for key, array in state_dict.items():
        np.testing.assert_array_equal(back[key], array)
        assert back[key].shape == array.shape
    if name.endswith("safetensors"):
        with safetensors.safe_open(path, "numpy") as file:
            assert file.metadata() == {"format": "pt", "model": "DFGAN"}
    with pytest.raises(InputError, match="exists; choose another"):
        write_weight_file(path, state_dict, metadata={})
    assert [p.name for p in path.parent.iterdir()] == [name]

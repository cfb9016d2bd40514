import io
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dfgan_jax.porting.torch_file import read_torch_file, write_torch_file
from dfgan_jax.porting.weight_file import read_weight_file
from dfgan_jax.support.errors import InputError
from tests.mutations import mutated, refusals
from tests.porting.torch_pickle import (
    FOUR,
    Bytes2,
    Call,
    Name,
    New,
    Persistent,
    dump,
    legacy_file,
    storage,
    tensor,
    zip_file,
)

FILES = pathlib.Path(__file__).parent / "torch_files"


def read(path, content):
    path.write_bytes(content)
    return read_torch_file(path)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_reads_what_pytorch_wrote(name):
    content = read_torch_file(FILES / name)
    tensors = content["state_dict"]
    base = np.arange(24, dtype=np.float32)
    expected = {
        "whole": base, "rows": base.reshape(2, 3, 4)[1], "columns": base.reshape(4, 6).T,
        "every_third": base[1::3], "scalar": np.float32(7), "empty": np.zeros((0, 3), np.float32),
        "expanded": np.full(5, 2, np.float32), "parameter": np.array([[1.5, -2.5]], np.float32),
        **{np.dtype(dtype).name: np.array([0, 1, 1]).astype(dtype)
           for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64,
                         np.int32, np.int16, np.int8, np.uint8, np.bool_)}}
    assert list(tensors) == list(expected)
    for key, array in expected.items():
        assert tensors[key].dtype == array.dtype
        assert tensors[key].shape == array.shape
        np.testing.assert_array_equal(tensors[key], array)
    assert np.shares_memory(tensors["whole"], tensors["columns"])
    assert content["history"] == [(1, {"psnr": np.float32(5)})]
    plain = {key: content[key] for key in ("epoch", "loss", "best", "name", "flag", "nothing",
                                           "size")}
    assert plain == {"epoch": 12, "loss": 0.25, "best": 0.5, "name": "größer", "flag": True,
                     "nothing": None, "size": (4, 6)}
    np.testing.assert_array_equal(content["array"].value, [0, 1, 2])


def test_reads_types_that_came_later():
    content = read_torch_file(FILES / "since_2_1.pth")
    np.testing.assert_array_equal(content["uint16"], np.full((2, 3), 60_000, np.uint16))
    assert content["float8"].dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(content["float8"].astype(float), [0.5, -2])


def test_reads_a_file_written_without_checksums():
    np.testing.assert_array_equal(
        read_torch_file(FILES / "without_checksums.pth")["ones"], np.ones(3))


def test_reads_big_endian_archives(tmp_path):
    swapped = struct.pack(">4f", 0, 1, 2, 3)
    array = read(tmp_path / "big.pth", zip_file(dump(tensor()), {"0": swapped}, byte_order=b"big"))
    np.testing.assert_array_equal(array, [0, 1, 2, 3])


def test_reads_views_of_storages_as_old_files_have_them(tmp_path):
    """(key of the view, offset, elements) behind the storage; texts of Python 2; no hooks."""
    view = storage(view=("view", 1, 3))
    rebuild = Name("torch._utils", "_rebuild_tensor")
    content = dump({Bytes2(b"w"): Call(rebuild, (view, 1, (2,), (1,))),
                    Bytes2(b"v"): Call(rebuild, (storage(view=None), 0, (4,), (1,)))})
    tensors = read(tmp_path / "old.pth", legacy_file(content))
    np.testing.assert_array_equal(tensors["w"], [2, 3])
    np.testing.assert_array_equal(tensors["v"], [0, 1, 2, 3])


def test_reads_the_ordered_dicts_of_python_2(tmp_path):
    items = [[Bytes2(b"a"), 1], [Bytes2(b"b"), tensor()]]
    content = dump(Call(Name("collections", "OrderedDict"), (items,)))
    read_back = read(tmp_path / "two.pth", zip_file(content))
    assert list(read_back) == ["a", "b"]


@pytest.mark.parametrize("name", ["module.pt", "torchscript.pt"])
def test_refuses_modules_that_pytorch_wrote(name):
    with pytest.raises(InputError, match=rf"{name}: refused.*state_dict\(\) instead"):
        read_torch_file(FILES / name)


def test_refuses_a_module_with_its_source(tmp_path):
    """What a legacy file holds for a module: its class, and the text of its source."""
    pid = ("module", Name("collections", "OrderedDict"), "model.py", "import os")
    with pytest.raises(InputError, match="a pickled module"):
        read(tmp_path / "module.pth", legacy_file(dump(Persistent(pid))))


@pytest.mark.parametrize("wrap", [zip_file, legacy_file])
@pytest.mark.parametrize(("module", "name"), [
    ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "getattr"),
    ("numpy", "load"), ("torch", "load"), ("torch.nn", "Module"), ("pathlib", "Path"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__")])
def test_a_name_outside_the_list_is_never_resolved(tmp_path, wrap, module, name):
    mark = tmp_path / "mark"
    content = dump({"w": tensor(), "x": Call(Name(module, name), (f"touch {mark}",))})
    with pytest.raises(InputError, match=r"hostile\.pth: refused.*only tensors, dicts and plain"):
        read(tmp_path / "hostile.pth", wrap(content))
    assert not mark.exists()


LIGHTNING = Name("pytorch_lightning.utilities.parsing", "AttributeDict")

HYPER_PARAMETERS = {
    "Namespace": New(Name("argparse", "Namespace"), {"lr": 1e-4, "crop": (64, 64)}),
    "AttributeDict": New(LIGHTNING, items={"lr": 1e-3, "betas": [0.9, 0.999]}),
    "AttributeDict of Lightning 2": New(Name("lightning.fabric.utilities.data", "AttributeDict"),
                                        items={"lr": 1e-3}),
    "AttributeDict within": New(LIGHTNING, items={"args": New(LIGHTNING, items={"n": 1})}),
    "a key that is a tuple": New(LIGHTNING, items={(1, 2): "x"}),
    "omegaconf": New(Name("omegaconf.dictconfig", "DictConfig"), {
        "_content": Call(Name("collections", "defaultdict"), (Name("builtins", "dict"),)),
        "_metadata": New(Name("omegaconf.base", "ContainerMetadata"),
                         {"ref_type": Name("typing", "Any")})}),
    "a user's class": New(Name("project.options", "Options"), {"width": 32}),
    "a class by name": Name("torch.nn.modules.activation", "ReLU"),
    "a list of a class of lists": New(Name("project", "Names"), values=["a", "b"]),
    "a path": Call(Name("pathlib", "PosixPath"), ("/", "data", "train")),
    "a range": Call(Name("__builtin__", "xrange"), (0, 4, 1)),
    "a decimal": Call(Name("decimal", "Decimal"), ("1.5",)),
    "a set": Call(Name("__builtin__", "set"), (["a", "b"],)),
    "a module as a loss": New(Name("torch.nn.modules.loss", "MSELoss"), {
        "training": True, "_parameters": {}, "_modules": {}}),
    "a partial": Call(Name("functools", "partial"), (Name("torch.optim.adam", "Adam"),)),
}


@pytest.mark.parametrize("wrap", [zip_file, legacy_file])
@pytest.mark.parametrize("kind", HYPER_PARAMETERS)
def test_objects_beside_tensors_are_inert(tmp_path, wrap, kind):
    content = read(tmp_path / "last.ckpt", wrap(dump({
        "epoch": 4, "hyper_parameters": HYPER_PARAMETERS[kind], "state_dict": {"w": tensor()}})))
    assert list(content) == ["epoch", "hyper_parameters", "state_dict"]
    np.testing.assert_array_equal(content["state_dict"]["w"], [0, 1, 2, 3])
    assert not isinstance(content["hyper_parameters"], dict | list | tuple | str)


def test_a_class_beside_tensors_is_never_imported(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    (tmp_path / "hostile_module.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass Options:\n    def __setstate__(self, state): 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    read(tmp_path / "x.pth", zip_file(dump({
        "w": tensor(), "args": New(Name("hostile_module", "Options"), {"a": 1})})))
    assert not mark.exists()


@pytest.mark.parametrize("content", [
    New(Name("project.net", "Net"), {"_parameters": {"w": tensor()}}),
    {"model": New(Name("project.net", "Net"), {"_parameters": {"w": tensor()}}), "epoch": 3},
    [New(Name("argparse", "Namespace"), {"w": tensor()})]])
@pytest.mark.parametrize("wrap", [zip_file, legacy_file])
def test_objects_alone_are_refused(tmp_path, wrap, content):
    with pytest.raises(InputError, match=r"it names (project\.net\.Net|argparse\.Namespace); only "
                                         r"tensors.*state_dict\(\) instead"):
        read(tmp_path / "whole.pth", wrap(dump(content)))


@pytest.mark.parametrize("name", ["_utils._rebuild_sparse_tensor", "_utils._rebuild_qtensor",
                                  "_utils._rebuild_meta_tensor_no_storage",
                                  "_tensor._rebuild_from_type_v2"])
def test_other_kinds_of_tensors_are_called_so(tmp_path, name):
    rebuilt = Call(Name(*f"torch.{name}".rsplit(".", 1)), ((2, 3),))
    with pytest.raises(InputError, match=rf"it names torch\.{name}; only .*\. It is of a kind of "
                                         r"tensor that is not supported \(such as sparse, quanti"):
        read(tmp_path / "x.pth", zip_file(dump({"w": rebuilt})))


@pytest.mark.parametrize(("payload", "message"), [
    (dump({"w": tensor(storage(kind="ComplexFloatStorage"))}),
     "names torch.ComplexFloatStorage; only tensors, dicts and plain values are allowed. It is of "
     "a kind of tensor that is not supported"),
    (dump({"w": tensor(), "x": New(Name("torch", "Size"))}), "no such file needs"),
    (dump({"w": tensor(), Name("os", "sep"): 1}), "neither a short text nor a plain number"),
    (b"\x80\x02" + dump(Name("os", "environ"))[2:-1] + b"}b.", "sets the state of a _Foreign"),
    (b"\x80\x02" + dump(Name("os", "environ"))[2:-1] + b"K\x00K\x01s.", "puts items into a"),
    (dump({"w": tensor(), "x": Call(Call(Name("functools", "partial"), (Name("os", "system"),)),
                                    ("true",))}), "not callable"),
])
def test_foreign_names_serve_for_nothing(tmp_path, payload, message):
    with pytest.raises(InputError, match=r"bad\.pth: refused") as caught:
        read(tmp_path / "bad.pth", zip_file(payload))
    assert message in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 2, 0, 3), (3, 0, 2, 1)])
def test_arrays_of_numpy_are_read_in_every_memory_order(tmp_path, protocol, axes):
    array = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5).transpose(axes)
    content = read(tmp_path / "np.pth", zip_file(pickle.dumps({"w": array}, protocol)))
    np.testing.assert_array_equal(content["w"].value, array)
    if protocol == 5:  # as NumPy since 2.3 writes other orders than C and Fortran
        frombuffer = Call(Name("numpy._core.numeric", "_frombuffer"), (
            array.transpose(np.argsort(axes)).tobytes(), Call(Name("numpy", "dtype"), ("f4",)),
            (2, 3, 4, 5), "K", axes))
        content = read(tmp_path / "k.pth", zip_file(dump({"w": frombuffer})))
        np.testing.assert_array_equal(content["w"].value, array)


@pytest.mark.parametrize(("order", "axes"), [
    ("K", ()), ("K", ((0, 0),)), ("K", ((0, 2),)), ("K", ("ab",)), ("A", ()), ("F", ((1, 0),)),
    (5, ())])
def test_memory_orders_that_there_are_not_are_refused(tmp_path, order, axes):
    frombuffer = Call(Name("numpy._core.numeric", "_frombuffer"), (
        bytes(24), Call(Name("numpy", "dtype"), ("f4",)), (2, 3), order, *axes))
    with pytest.raises(InputError, match=r"bad\.pth: refused"):
        read(tmp_path / "bad.pth", zip_file(dump({"w": frombuffer})))


@pytest.mark.parametrize(("content", "message"), [
    (b'{\n "metadata": {}, "weight_map": {"conv1.weight": "model-00001-of-00002.safetensors"}}',
     r"is a JSON text, such as the index .*; expected one file, of \.pth, .*\.safetensors$"),
    (b"{}", "is a JSON text"),
    (b"\x89HDF\r\n\x1a\n" + bytes(100), r"refused.*it is no pickle, .*: b'H' is no opcode$"),
    (b"- width: 32\n", "refused.*it is no pickle, .*: b'-' is no opcode$"),
])
@pytest.mark.parametrize("name", ["gan.pth", "gan.bin", "model.safetensors.index.json"])
def test_files_of_other_kinds_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}") as caught:
        read_weight_file(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    (b"", r"is empty \(0 bytes\)"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
     "is a Git LFS pointer"),
    (b"<!DOCTYPE html><html><head><title>Virus scan warning</title></head></html>",
     "is an HTML page"),
    (b"\xef\xbb\xbf\n <HTML lang='en'>", "is an HTML page"),
    (b'<?xml version="1.0"?>\n<html xmlns="http://www.w3.org/1999/xhtml">', "is an HTML page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML text"),
])
@pytest.mark.parametrize("name", ["gan.pth", "gan.safetensors"])
def test_what_a_failed_download_leaves_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: refused: it {message}") as caught:
        read_weight_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def nested(depth):
    """Tuples that would take 2**depth steps to hash."""
    value = b")"
    for _ in range(depth):
        value += b"2\x86"
    return value


@pytest.mark.parametrize(("payload", "message"), [
    (dump(tensor(size=(5,))), "strides"),
    (dump(tensor(offset=1)), "strides"),
    (dump(tensor(offset=-1)), "sensible integers"),
    (dump(tensor(stride=(-1,))), "sensible integers"),
    (dump(tensor(size=(2**61, 2**61), stride=(0, 0))), "larger than its storage"),
    (dump(tensor(size=(2**70,), stride=(0,))), "sensible integers"),
    (dump(tensor(size=(1,) * 65, stride=(0,) * 65)), "sensible integers"),
    (dump(tensor(stride=(1, 1))), "1 sizes and 2 strides"),
    (dump(tensor(size=(True,))), "sensible integers"),
    (dump(tensor("not a storage")), "no storage"),
    (dump(tensor(storage(count=10**12))), "larger than the file"),
    (dump(tensor(storage(count=-4))), "sensible integers"),
    (dump([tensor(), tensor(storage(kind="LongStorage", count=2))]), "two types or sizes"),
    (dump(tensor(storage(view=("v", 2, 3)))), "reaches beyond it"),
    (dump(Persistent(("storage", "FloatStorage", "0", "cpu", 4))), "no type or no key"),
    (dump(Call(Name("torch", "FloatStorage"), ())), "not callable"),
    # Sets the state of what a tensor is, and of a function.
    (b"\x80\x02" + dump(tensor())[2:-1] + b"}b.", "sets the state of a ndarray"),
    (b"\x80\x02" + dump(Name("torch", "Size"))[2:-1] + b"}b.", "sets the state of a function"),
    (b"\x80\x02" + dump(tensor())[2:-1] + b"K\x00K\x01s.", "puts items into a ndarray"),
    (b"\x80\x02}" + nested(64) + b"Ns.", "neither a short text nor a plain number"),
    (b"\x80\x02(" + nested(64) + b"Nd.", "neither a short text nor a plain number"),
    (b"\x80\x02}(" + nested(64) + b"Nu.", "neither a short text nor a plain number"),
    (b"\x80\x04\x8f(" + nested(64) + b"\x90.", "no such file needs"),
    (b"\x80\x02\x82\x01.", "no such file needs"),
    (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00utf8\x86R.", "unusual way"),
    (b"\x80\x02" + b"]0" * 2_000_000 + b".", "opcodes"),
    # A tensor of millions of elements, and a list, for arguments.
    (b"\x80\x02ctorch\ndevice\n" + dump(tensor(size=(1 << 24,), stride=(0,)))[2:-1] + b"R.",
     "no short tuple of arguments"),
    (dump(Call(Name("torch", "device"), (0,) * 17)), "no short tuple of arguments"),
    (dump(Call(Name("collections", "OrderedDict"), ("ab",))), "no list of items"),
    (dump(Call(Name("collections", "OrderedDict"), (["ab"],))), "made of no pairs"),
    # What is long as a text, or is shared by many calls.
    (b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(C\0cnumpy\ndtype\nX\x02\0\0\0f4\x85R"
     b"K\0\x85" + nested(18) + b"tR.", "a memory order of type tuple"),
    (b"\x80\x02cnumpy\ndtype\nX\x02\0\0\0f4\x85R" + dump((3, "<", *(None,) * 15))[2:-1] + b"b.",
     "the state of an array's type is no short tuple"),
    (dump(Name("a" * 100, "b" * 101)), "something of 201 letters; at most 200 are expected"),
    (b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x", "a length in it is wrong"),
    (b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b"x", "a length in it is wrong"),
    (b"", "the file ends early"), (b"\x80", "the file ends early"), (b"garbage", "refused"),
])
@pytest.mark.parametrize("wrap", [zip_file, legacy_file])
def test_what_lies_or_explodes_is_refused(tmp_path, wrap, payload, message):
    with pytest.raises(InputError, match=r"bad\.pth: refused") as caught:
        read(tmp_path / "bad.pth", wrap(payload))
    assert "\n" not in str(caught.value)
    if wrap is zip_file:  # a legacy file goes on behind the broken pickle
        assert message in str(caught.value)


def test_lists_that_are_used_over_and_over_are_refused(tmp_path):
    """A call costs six bytes, and would copy twenty thousand items each time."""
    items = b"](" + (b"](X\x01\x00\x00\x00aNe" * 20_000) + b"e\x85q\x00"
    calls = b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00R0" * 10_000
    with pytest.raises(InputError, match="made of too many items"):
        read(tmp_path / "bomb.pth", zip_file(b"\x80\x02" + items + b"0" + calls + b"N."))


def test_keys_of_storages_that_are_no_texts_are_refused(tmp_path):
    """The text of such a tuple would have 2**64 parts."""
    content = legacy_file(dump(tensor()))
    keys = b"\x80\x02]K\x00" + b"2\x86" * 64 + b"a."
    assert content.count(dump(["0"])) == 1
    with pytest.raises(InputError, match="not those that its tensors need"):
        read(tmp_path / "keys.pth", content.replace(dump(["0"]), keys))


def test_counters_are_read(tmp_path):
    """As the state of a schedule of learning rates has one."""
    content = {"milestones": Call(Name("collections", "Counter"), ({30: 1},)), None: 1.5, 0.5: True}
    assert read(tmp_path / "x.pth", zip_file(dump(content))) == {
        "milestones": {30: 1}, None: 1.5, 0.5: True}


@pytest.mark.parametrize(("content", "message"), [
    (zip_file(dump(tensor()), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    (zip_file(dump(tensor()), {}), "data/0 is missing"),
    (zip_file(dump(tensor()), {"0": FOUR[:-1]}), "data/0 has 15 bytes; expected 16"),
    (zip_file(dump(tensor()), byte_order=b"middle"), "byte order"),
    (legacy_file(dump(tensor()), {"0": (3, FOUR)}), "storage 0 has 3 elements; expected 4"),
    (legacy_file(dump(tensor()), keys=["1"]), "not those that its tensors need"),
    (legacy_file(dump(tensor()), keys="0"), "not those that its tensors need"),
    (legacy_file(dump(tensor()), {"0": (4, FOUR[:-1])}), "ends early"),
    (dump(12), "not PyTorch's"),
    (dump(0x1950A86A20F9469CFC6C) + dump(1002) + dump({}), "protocol is not 1001"),
])
def test_files_that_contradict_themselves_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"bad\.pth: refused.*{message}"):
        read(tmp_path / "bad.pth", content)


def test_a_flipped_bit_in_a_tensor_is_found(tmp_path):
    content = bytearray((FILES / "zip.pth").read_bytes())
    position = content.index(np.arange(24, dtype=np.float32).tobytes())
    content[position + 9] ^= 1
    with pytest.raises(InputError, match="Bad CRC-32"):
        read(tmp_path / "flipped.pth", content)


def test_other_zip_archives_are_named(tmp_path):
    path = tmp_path / "other.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"without the data\.pkl of PyTorch"):
        read_torch_file(path)
    with pytest.raises(InputError, match=r"absent\.pth: no such file"):
        read_torch_file(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_every_truncation_is_refused(tmp_path, name):
    content = (FILES / name).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.pth: refused"):
            read_torch_file(path)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "since_2_1.pth"])
def test_mutated_files_are_read_or_refused(tmp_path, name, fuzz_files):
    content = (FILES / name).read_bytes()
    path = tmp_path / "mutated.pth"
    before = set(os.listdir(tmp_path))
    messages = refusals(read_torch_file, path,
                        mutated(content, count=fuzz_files, rng=np.random.default_rng(0)))
    assert len(messages) > fuzz_files / 10
    assert all(line.startswith(f"{path}: refused") and "\n" not in line
               and len(line) < len(str(path)) + 600 for line in messages)
    assert set(os.listdir(tmp_path)) == before | {"mutated.pth"}


STATE_DICT = {
    "double": np.linspace(0, 1, 6).reshape(2, 3), "float": np.float32([[1], [2]]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.float16([0.5]), "bfloat16": np.array([1.5], ml_dtypes.bfloat16),
    "scalar": np.array(26_200), "empty": np.zeros((0, 2), np.float32),
    "byte": np.uint8([255]), "bool": np.array([True, False])}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "written.pth"
    with path.open("wb") as file:
        write_torch_file(file, STATE_DICT)
    back = read_torch_file(path)
    assert list(back) == list(STATE_DICT)
    for key, array in STATE_DICT.items():
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], array)


def test_the_same_arrays_are_written_as_the_same_bytes():
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        write_torch_file(file, STATE_DICT)
    assert files[0].getvalue() == files[1].getvalue()


def test_a_type_that_pytorch_lacks_is_an_error():
    with pytest.raises(KeyError, match="complex64"):
        write_torch_file(io.BytesIO(), {"z": np.zeros(1, np.complex64)})

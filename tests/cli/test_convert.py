import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors

from configs import attn, dfgan, redcnn
from dfgan_jax.checkpoints.networks import save_weights
from dfgan_jax.checkpoints.run import Checkpoints
from dfgan_jax.cli import convert
from dfgan_jax.cli.options import RunOptions
from dfgan_jax.denoising.denoiser import Denoiser
from dfgan_jax.models.cnn10 import CNN10Options
from dfgan_jax.models.generators import build_generator, initial_variables
from dfgan_jax.porting.cnn10_layout import CNN10_LAYOUT
from dfgan_jax.porting.weight_file import read_weight_file, write_weight_file
from dfgan_jax.porting.weights import Weights, read_weights
from dfgan_jax.support.errors import InputError
from tests.cli import command
from tests.cli.untrained import untrained
from tests.porting.test_weights import assert_equal, discriminator, generator, save
from tests.porting.test_weights import redcnn as redcnn_state_dict


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors"])
def test_round_trip_is_bit_for_bit(tmp_path, suffix, capsys):
    source = {"generator": generator(attention=True), "joint": discriminator()}
    source["generator"]["inc.conv.conv.1.num_batches_tracked"] = np.array(26_200)
    given = save(tmp_path / "gan.pth", source)
    convert.run(inputs=[given], output=tmp_path / "checkpoint")
    assert "inc.conv.conv.0.weight" in capsys.readouterr().out
    convert.run(inputs=[tmp_path / "checkpoint"], output=tmp_path / f"back{suffix}")
    out = capsys.readouterr().out
    assert "generator:\n  params/inc/conv1/kernel" in out
    assert f"back.joint_discriminator{suffix}" in out
    by_order = {"generator": f"back{suffix}", "joint": f"back.joint_discriminator{suffix}"}
    for name, file in by_order.items():
        back = read_weight_file(tmp_path / file)
        assert_equal({key: back[key] for key in source[name]}, source[name])
        assert back.keys() == source[name].keys()


def test_a_run_is_converted_with_its_discriminators(tmp_path):
    _, state = untrained(tmp_path / "run", attn, step=40)
    convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.pth")
    assert files(tmp_path) == ["run", "x.difference_discriminator.pth",
                               "x.image_discriminator.pth", "x.pth"]
    read = read_weights([tmp_path / name for name in files(tmp_path)[1:]])
    for ours, theirs in ((read.weights.generator["params"], state.generator["params"]),
                         (read.weights.discriminators, state.discriminators)):
        jax.tree.map(np.testing.assert_array_equal, ours, jax.tree.map(np.asarray, theirs))
    counts = jax.tree.leaves(read.weights.generator["batches_tracked"])
    assert {int(count) for count in counts} == {40}  # a run's norms see a batch a step


def test_a_converted_checkpoint_denoises_as_its_file_does(tmp_path):
    given = save(tmp_path / "gan.pth", {"epoch": 139, "state_dict": generator()})
    convert.run(inputs=[given], output=tmp_path / "new" / "checkpoint")
    hu = np.random.default_rng(0).normal(0, 300, (2, 20, 32)).astype(np.float32)
    from_file, from_folder = Denoiser.load(given), Denoiser.load(tmp_path / "new" / "checkpoint")
    np.testing.assert_array_equal(from_file(hu), from_folder(hu))
    assert from_folder.meta["epoch"] == 139
    assert from_folder.meta["step"] is None
    assert from_folder.meta["source"] == from_file.meta["source"]
    assert np.abs(from_file(hu) - hu).max() > 1


def test_files_are_converted_to_files(tmp_path):
    given = save(tmp_path / "gan.pth", {"state_dict": generator()})
    convert.run(inputs=[given], output=tmp_path / "flat.safetensors")
    flat = read_weight_file(tmp_path / "flat.safetensors")
    assert_equal({key: flat[key] for key in generator()}, generator())


def test_a_run_without_discriminators_gives_one_file(tmp_path):
    untrained(tmp_path / "run", dfgan, discriminators="none")
    convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.pt")
    assert files(tmp_path) == ["run", "x.pt"]


def test_red_cnn_goes_there_and_back_and_denoises_alike(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert, "VERIFY_SIZE", 32)
    source = redcnn_state_dict()
    given = save(tmp_path / "red.pth", source)
    convert.run(inputs=[given], output=tmp_path / "checkpoint")
    convert.run(inputs=[tmp_path / "checkpoint"], output=tmp_path / "back.safetensors", verify=True)
    assert "Read back: 20 tensors, equal bit for bit." in capsys.readouterr().out
    back = read_weight_file(tmp_path / "back.safetensors")
    assert_equal({key: back[key] for key in source}, source)
    with safetensors.safe_open(tmp_path / "back.safetensors", "numpy") as file:
        assert file.metadata()["model"] == "RED-CNN"
    compared = np.load(tmp_path / "back.safetensors.verify.npz")
    qdct_hu, denoised_hu = (compared[name][:, 0] * 4096 - 1024 for name in ("qdct", "denoised"))
    np.testing.assert_allclose(Denoiser.load(given)(qdct_hu), denoised_hu, atol=0.01)
    # Smaller than what five convolutions without padding take away.
    hu = np.random.default_rng(0).normal(0, 300, (2, 9, 16)).astype(np.float32)
    denoised = Denoiser.load(given)(hu)
    np.testing.assert_array_equal(denoised, Denoiser.load(tmp_path / "checkpoint")(hu))
    assert denoised.shape == hu.shape
    assert np.abs(denoised - hu).max() > 1


def test_a_run_of_red_cnn_is_converted(tmp_path):
    _, state = untrained(tmp_path / "run", redcnn, discriminators="none", step=40)
    convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.pth")
    read = read_weights([tmp_path / "x.pth"]).weights
    jax.tree.map(np.testing.assert_array_equal, read.generator_variables,
                 jax.tree.map(np.asarray, state.generator))
    from_run, from_file = Denoiser.load(tmp_path / "run"), Denoiser.load(tmp_path / "x.pth")
    assert from_run.weights_sha256 == from_file.weights_sha256
    assert build_generator(**from_run.meta["config"]["generator"]) == build_generator(
        **from_file.meta["config"]["generator"])


def test_verify_reads_back_and_shows_what_the_generator_does(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert, "VERIFY_SIZE", 32)
    given = save(tmp_path / "gan.pth", {"G": generator(), "D": discriminator()})
    convert.run(inputs=[given], output=tmp_path / "x.pth", verify=True)
    out = capsys.readouterr().out
    count = len(generator()) + len(discriminator())
    assert f"Read back: {count} tensors, equal bit for bit." in out
    assert "from qdct, PyTorch's model.eval() must give denoised.\n" in out
    table = {line[:24].strip(): [float(word) for word in line[24:].split()]
             for line in out.splitlines() if line.startswith("  ") and "→" not in line
             and len(line.split()) > 5 and line.split()[-1].replace(".", "").isdigit()}
    assert table.keys() == {"quarter dose", "denoised", "with h and w exchanged"}
    saved = np.load(tmp_path / "x.pth.verify.npz")
    assert saved["qdct"].shape == saved["denoised"].shape == (1, 1, 32, 32)
    hu = saved["denoised"] * 500 - 500
    np.testing.assert_allclose(table["denoised"][:4], [hu.mean(), hu.std(), hu.min(), hu.max()],
                               atol=0.06)
    np.testing.assert_allclose(Denoiser.load(given)(saved["qdct"][:, 0] * 500 - 500), hu[:, 0],
                               atol=0.01)
    # A transposed kernel shows.
    assert table["with h and w exchanged"] != table["denoised"]


def smoothing():
    """CNN-10 with equal filters along both axes: a mean of five pixels, between shifts by 10."""
    state_dict = {key: np.zeros(entry.shape, np.float32) for key, entry in
                  CNN10_LAYOUT.layout(CNN10Options(width=2)).items()}
    first = state_dict["layers.0.weight"][0, 0]
    first[4, 3:6] = first[3:6, 4] = 0.05
    first[4, 4] = 0.8
    state_dict["layers.2.weight"][0, 0, 1, 1] = state_dict["layers.4.weight"][0, 0, 2, 2] = 1
    # No ReLU cuts.
    state_dict["layers.0.bias"][0], state_dict["layers.4.bias"][0] = 10, -10
    return state_dict


def test_verify_says_where_exchanged_kernels_make_no_difference(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert, "VERIFY_SIZE", 64)
    given = save(tmp_path / "smooth.pth", smoothing())
    convert.run(inputs=[given], output=tmp_path / "x.pth", verify=True)
    out = capsys.readouterr().out
    assert "The order of height and width makes no difference to this network" in out
    assert "Warning" not in out


def test_verify_warns_of_a_network_that_does_not_denoise(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(convert, "VERIFY_SIZE", 64)
    state_dict = smoothing()
    state_dict["layers.4.bias"][0] = -9  # 502 HU too many
    convert.run(inputs=[save(tmp_path / "x.pth", state_dict)], output=tmp_path / "y.pth",
                verify=True)
    out = capsys.readouterr().out
    assert "Warning: the generator's result is no nearer to the normal dose than the quarter" in out
    assert "makes no difference" not in out


@pytest.mark.parametrize(("denoised", "exchanged", "verdict"), [
    (15.0, 20.0, ""), (15.0, 14.8, "makes no difference"), (15.0, 15.2, "makes no difference"),
    (15.0, 14.6, "Warning: the generator does better with height and width of every kernel"),
    (30.0, 20.0, "Warning: the generator does better with height and width of every kernel"),
    (25.0, 40.0, "Warning: the generator's result is no nearer")])
def test_the_errors_tell_exchanged_kernels_beyond_two_percent(denoised, exchanged, verdict):
    said = convert._verdict(25.0, denoised, exchanged)
    assert (verdict in said) if verdict else (said == "")


def test_verify_finds_a_file_that_was_not_written_right(tmp_path, monkeypatch):
    given = save(tmp_path / "gan.pth", generator())
    right = convert.weight_file.write_weight_file

    def transposed(path, state_dict, *, metadata):
        wrong = {key: array.swapaxes(2, 3) if array.ndim == 4 else array
                 for key, array in state_dict.items()}
        right(path, wrong, metadata=metadata)

    monkeypatch.setattr(convert.weight_file, "write_weight_file", transposed)
    with pytest.raises(InputError, match=r"inc\.conv\.conv\.0\.weight was read back with other"):
        convert.run(inputs=[given], output=tmp_path / "x.pth", verify=True)


def test_verify_overwrites_nothing(tmp_path):
    given = save(tmp_path / "gan.pth", generator())
    (tmp_path / "x.pth.verify.npz").write_text("mine")
    with pytest.raises(InputError, match=r"x\.pth\.verify\.npz: exists"):
        convert.run(inputs=[given], output=tmp_path / "x.pth", verify=True)
    assert files(tmp_path) == ["gan.pth", "x.pth.verify.npz"]


def test_suffixes_may_be_written_large(tmp_path):
    convert.run(inputs=[save(tmp_path / "gan.pth", {"G": generator(), "D": discriminator()})],
                output=tmp_path / "X.PTH")
    assert files(tmp_path) == ["X.PTH", "X.joint_discriminator.PTH", "gan.pth"]
    assert (tmp_path / "X.PTH").is_file()


@pytest.mark.parametrize(("item", "content", "message"), [
    ("meta/metadata", "{}", "its metadata lack config, epoch, step"),
    ("meta/metadata", "[1]", "its metadata lack config, epoch, step"),
    ("meta/metadata", "{", "its metadata cannot be read"),
    ("state/_METADATA", "{}", "the checkpoint is damaged"),
])
def test_damaged_checkpoints_are_named(tmp_path, item, content, message):
    convert.run(inputs=[save(tmp_path / "gan.pth", generator())], output=tmp_path / "folder")
    (tmp_path / "folder" / item).write_text(content)
    with pytest.raises(InputError, match=f"folder: {message}"):
        convert.run(inputs=[tmp_path / "folder"], output=tmp_path / "x.pth")


@pytest.mark.parametrize("output", ["there.pth", "folder"])
def test_nothing_is_overwritten(tmp_path, output):
    given = save(tmp_path / "there.pth", generator())
    (tmp_path / "folder").mkdir()
    before = given.read_bytes()
    with pytest.raises(InputError, match="exists; choose another output"):
        convert.run(inputs=[given], output=tmp_path / output)
    assert given.read_bytes() == before


@pytest.mark.parametrize("name", ["c16.npz", "x.ckpt", "x.v2"])
def test_a_name_with_another_suffix_becomes_no_folder(tmp_path, name):
    given = save(tmp_path / "there.pth", generator())
    with pytest.raises(InputError, match=rf"--output=.*{name} ends in \..*; expected a file that "
                                         r"ends in \.pth, .*, \.onnx, or for a checkpoint's"):
        convert.run(inputs=[given], output=tmp_path / name)
    assert files(tmp_path) == ["there.pth"]


def test_a_folder_may_be_named_by_a_date(tmp_path):
    convert.run(inputs=[save(tmp_path / "x.pth", generator())], output=tmp_path / "of_2026.11.30")
    assert Denoiser.load(tmp_path / "of_2026.11.30").meta["config"]["generator"]["width"] == 2


def test_a_discriminators_file_is_not_overwritten_either(tmp_path):
    untrained(tmp_path / "run", dfgan)
    (tmp_path / "x.image_discriminator.pth").write_text("mine")
    with pytest.raises(InputError, match=r"x\.image_discriminator\.pth: exists"):
        convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.pth")
    assert files(tmp_path) == ["run", "x.image_discriminator.pth"]


def test_the_command_line_converts_and_evaluates(tmp_path):
    """Files and converted checkpoints stand in one table, with equal scores."""
    pairs = command.make_pairs(tmp_path)
    given = save(tmp_path / "gan.pth", {"state_dict": generator(attention=True)})
    done = command.run("--mode=convert", f"--input={given}", f"--output={tmp_path / 'gan'}")
    assert done.returncode == 0, done.stderr
    assert "AttnDFGAN's U-Net with CBAM, width 2" in done.stdout
    assert done.stderr == ""
    done = command.run("--config=configs/attn.py", "--config.data.size=0", *pairs,
                       "--mode=evaluate", f"--checkpoint={tmp_path / 'gan'},{given}",
                       *command.SCORES_ONLY,
                       f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = results["protocols"]["full_range"]["rows"]
    assert [row.pop("name") for row in rows] == [
        "QDCT", "AttnDFGAN (gan)", "AttnDFGAN (gan.pth)"]
    assert rows[1] == rows[2]
    assert "step None" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("options", "message"), [
    (["--mode=convert", "--output=x"], "needs --input"),
    (["--mode=convert", "--input=a.pth"], "needs --output"),
    (["--mode=convert", "--input=a.pth", "--output=x"],
     "a.pth: no such file or folder, nor pretrained weights"),
    (["--mode=convert", "--input=a.pth", "--input=b.pth", "--output=x"], "that all exist"),
    (["--mode=convert", "--input=README.md", "--output=x"], "README.md: refused"),
    (["--mode=convert", "--input=README.md", "--output=x", "--checkpoint=y"],
     "--mode=convert takes no --checkpoint"),
])
def test_what_cannot_be_converted_is_told_in_one_line(options, message):
    done = command.run(*options)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def perturbed(workdir, module, **options):
    """A checkpoint of a recipe's network whose average is not what its generator is."""
    config, state = untrained(workdir / "first", module, variant="", **options)
    rng = np.random.default_rng(0)
    average = jax.tree.map(lambda x: x + rng.uniform(0.01, 0.1, x.shape).astype(np.float32),
                           jax.device_get(state.average))
    state = dataclasses.replace(state, average=average)
    with Checkpoints(workdir / "run") as kept:
        kept.save(state, {"step": 7, "epoch": 1, "config": json.loads(config.to_json())})
        kept.wait()
    return config, state


@pytest.mark.parametrize("module", [attn, dfgan])
def test_a_network_of_the_difference_goes_there_and_back_by_safetensors(tmp_path, module, capsys):
    _, state = perturbed(tmp_path, module, discriminators="none")
    convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.safetensors")
    assert "output: the difference map, which is added to the input" in capsys.readouterr().out
    convert.run(inputs=[tmp_path / "x.safetensors"], output=tmp_path / "back")
    assert "output: the difference map, which is added to the input" in capsys.readouterr().out
    read = read_weights([tmp_path / "x.safetensors"])
    assert read.weights.unseen == {"output": "difference"}
    assert read.meta["config"]["generator"] == {
        "architecture": "unet", "attention": module is attn, "width": 2, "add_image": False,
        "output": "difference"}
    # The average is the model.
    jax.tree.map(np.testing.assert_array_equal, read.weights.generator["params"],
                 state.average["params"])
    hu = np.random.default_rng(0).normal(0, 300, (1, 32, 32)).astype(np.float32)
    results = [Denoiser.load(path)(hu) for path in (
        tmp_path / "run", tmp_path / "x.safetensors", tmp_path / "back")]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert np.abs(results[0] - hu).max() > 1


def test_verify_says_that_pytorch_gives_the_difference(tmp_path, capsys, monkeypatch):
    """As the published module, which adds no input, does with these weights."""
    monkeypatch.setattr(convert, "VERIFY_SIZE", 32)
    write_weight_file(tmp_path / "x.safetensors", generator(),
                      metadata={"generator_options": '{"output": "difference"}'})
    convert.run(inputs=[tmp_path / "x.safetensors"], output=tmp_path / "y.safetensors", verify=True)
    assert "from qdct, PyTorch's model.eval() must give denoised − qdct" in capsys.readouterr().out
    saved = np.load(tmp_path / "y.safetensors.verify.npz")
    write_weight_file(tmp_path / "bare.safetensors", generator(), metadata={})
    given = Denoiser.load(tmp_path / "bare.safetensors")(saved["qdct"][:, 0] * 500 - 500)
    np.testing.assert_allclose((given + 500) / 500, (saved["denoised"] - saved["qdct"])[:, 0],
                               atol=1e-4)


def test_a_file_of_pytorch_cannot_carry_the_difference(tmp_path):
    untrained(tmp_path / "run", attn, variant="", discriminators="none")
    for suffix in (".pth", ".pt", ".pth.tar"):
        with pytest.raises(InputError, match=r"only \.safetensors can carry .* 'difference'"):
            convert.run(inputs=[tmp_path / "run"], output=tmp_path / f"x{suffix}")
    assert files(tmp_path) == ["run"]


@pytest.mark.parametrize("normalization", ["group", "none"])
def test_other_normalisations_are_told_by_their_keys(tmp_path, normalization):
    config = dfgan.get_config("slides")
    config.generator.width, config.generator.normalization = 4, normalization
    generator_ = RunOptions.of(config).networks.generator
    shapes = jax.eval_shape(lambda: initial_variables(generator_, jax.random.key(0)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.uniform(0.01, 0.1, x.shape).astype(x.dtype), shapes)
    weights = Weights(generator={**variables, "batches_tracked": {}}, discriminators={})
    save_weights(tmp_path / "there", weights, {
        "step": None, "epoch": None, "config": json.loads(config.to_json())})
    convert.run(inputs=[tmp_path / "there"], output=tmp_path / "x.pth")
    read = read_weights([tmp_path / "x.pth"])
    assert read.meta["config"]["generator"]["normalization"] == normalization
    hu = np.random.default_rng(0).normal(0, 300, (32, 32)).astype(np.float32)
    np.testing.assert_array_equal(Denoiser.load(tmp_path / "there")(hu),
                                  Denoiser.load(tmp_path / "x.pth")(hu))


@pytest.mark.parametrize("text", ["[1]", "{", '{"output": "residual"}', '{"width": 3}',
                                  '{"gate_window": -1}', '{"gate_window": "64"}',
                                  '{"output": 1}'])
def test_options_that_there_are_not_are_refused(tmp_path, text):
    write_weight_file(tmp_path / "x.safetensors", generator(), metadata={"generator_options": text})
    with pytest.raises(InputError, match="its metadata name generator options that there are not"):
        read_weights([tmp_path / "x.safetensors"])


def test_windows_of_the_gates_travel_with_the_weights(tmp_path):
    write_weight_file(tmp_path / "x.safetensors", generator(attention=True), metadata={
        "generator_options": '{"gate_window": 64, "output": "image"}'})
    read = read_weights([tmp_path / "x.safetensors"])
    assert read.weights.unseen == {"gate_window": 64}
    assert any("windows of 64 pixels" in line for line in read.explanation)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_float16_takes_half_the_room(tmp_path, suffix, capsys, monkeypatch):
    monkeypatch.setattr(convert, "VERIFY_SIZE", 32)
    state_dict = generator()
    state_dict["inc.conv.conv.1.running_var"][:] = 2e5
    given = save(tmp_path / "gan.pth", state_dict)
    for storage in ("float32", "float16"):
        convert.run(inputs=[given], output=tmp_path / f"{storage}{suffix}", storage=storage,
                    verify=storage == "float16")
    assert "equal bit for bit to their float16 values" in capsys.readouterr().out
    whole, half = (read_weight_file(tmp_path / f"{storage}{suffix}")
                   for storage in ("float32", "float16"))
    for key, array in whole.items():
        # Variances are squares: those of large features lie beyond float16.
        kept = (np.float16 if array.dtype.kind == "f" and "running_" not in key else array.dtype)
        assert half[key].dtype == kept
        np.testing.assert_array_equal(half[key], array.astype(kept))
    hu = np.random.default_rng(0).normal(0, 50, (32, 32)).astype(np.float32)
    np.testing.assert_allclose(Denoiser.load(tmp_path / f"float16{suffix}")(hu),
                               Denoiser.load(given)(hu), atol=2)


def test_what_float16_cannot_hold_is_refused(tmp_path):
    state_dict = generator()
    state_dict["inc.conv.conv.0.weight"] = np.full_like(state_dict["inc.conv.conv.0.weight"], 7e4)
    given = save(tmp_path / "gan.pth", state_dict)
    with pytest.raises(InputError, match=r"0\.weight has 70000, which it cannot hold"):
        convert.run(inputs=[given], output=tmp_path / "x.pth", storage="float16")
    with pytest.raises(InputError, match=r"^--storage=float16 needs an output \.pth, \.pt, \.pth"
                                         r"\.tar or \.safetensors; .*folder is the folder of a"):
        convert.run(inputs=[given], output=tmp_path / "folder", storage="float16")
    with pytest.raises(InputError, match=r"^--storage is 'int8'; expected float32 or float16$"):
        convert.run(inputs=[given], output=tmp_path / "x.pth", storage="int8")
    assert files(tmp_path) == ["gan.pth"]


def test_a_run_becomes_an_onnx_file_that_is_verified(tmp_path, capsys):
    untrained(tmp_path / "run", attn, step=40)
    convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.onnx", verify=True)
    out = capsys.readouterr().out
    assert f"Wrote {tmp_path / 'x.onnx'}" in out
    assert "as this package does: the largest difference is 0.00" in out
    assert files(tmp_path) == ["run", "x.onnx"]
    with pytest.raises(InputError, match=r"--storage=float16 needs .*y\.onnx is an ONNX file$"):
        convert.run(inputs=[tmp_path / "run"], output=tmp_path / "y.onnx", storage="float16")
    with pytest.raises(InputError, match=r"x\.onnx: exists; choose another"):
        convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.onnx")


def test_an_onnx_file_that_denoises_otherwise_is_an_error(tmp_path, monkeypatch):
    untrained(tmp_path / "run", attn, step=40)
    monkeypatch.setattr(convert.onnx_file, "run_onnx", lambda path, hu: hu + 1)
    with pytest.raises(InputError, match=r"ONNX Runtime's result differs by .* expected at most"):
        convert.run(inputs=[tmp_path / "run"], output=tmp_path / "x.onnx", verify=True)

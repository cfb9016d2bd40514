import re

import pytest
from absl import flags

import dfgan_jax
from dfgan_jax.cli import command_line
from dfgan_jax.cli.help_text import DFGAN_JAX, MAIN_PY
from dfgan_jax.cli.modes import MODES, names
from dfgan_jax.support.errors import InputError
from tests.cli.command import ROOT

# ml_collections reads a configuration so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def parse(*arguments, command=MAIN_PY):
    """The mode and the flags' values, in a process that has other flags of these names."""
    values = flags.FlagValues()
    arguments = ["program", *arguments]
    command_line.define(values, command=command, sys_argv=arguments)
    return command_line.parse(arguments, command=command, values=values), values


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("arguments", "message"), [
    ("--mode=denoise --input=a --output=b --workdir=c", "--mode=denoise takes no --workdir"),
    ("--mode=denoise --input=a --output=b --config=attn", "--mode=denoise takes no --config"),
    ("--mode=denoise --input=a --output=b --config.seed=1",
     "--mode=denoise takes no --config.seed"),
    ("--mode=denoise --input=a --output=b --noconfig.remat",
     "--mode=denoise takes no --noconfig.remat"),
    ("--mode=convert --input=a --output=b --workdir=c", "--mode=convert takes no --workdir"),
    ("--mode=convert --input=a --output=b --config=attn", "--mode=convert takes no --config"),
    ("--mode=pair --ndct=a --qdct=b --output=c --workdir=d", "--mode=pair takes no --workdir"),
    ("--mode=pair --ndct=a --input=b --output=c",
     "--mode=pair takes --input, a tree with both doses, or --ndct and --qdct, a tree of each; "
     "--input and --ndct are given"),
    ("--mode=pair --ndct=a --qdct=b --input=c --output=d",
     "--mode=pair takes --input, a tree with both doses, or --ndct and --qdct, a tree of each; "
     "--input and --ndct and --qdct are given"),
    ("--mode=pair --qdct=a --output=c",
     "--mode=pair needs --ndct=DIR[,DIR…], or --input=DIR of a tree with both doses"),
    ("--mode=pair --input=a", "--mode=pair needs --output=PATH"),
    ("--mode=pair --input= --output=c", "--input is empty; expected a path"),
    *[(f"{command}={url}", f"--{command.split('--')[-1]} is {url!r}; expected a path in a mounted "
       "file system: a bucket has to be mounted first, or its files copied")
      for command, url in (
          ("--config=attn --workdir", "gs://bucket/run"),
          ("--mode=denoise --input=a --output", "s3://bucket/out"),
          ("--mode=denoise --input=a --output=b --report", "file:///tmp/report.html"),
          ("--mode=denoise --output=b --input", "https://host/scan.nii.gz"),
          ("--mode=pair --qdct=q --output=b --ndct", "a,gs://bucket/full"),
          ("--mode=denoise --input=a --output=b --checkpoint", "hf://owner/model"))],
    ("--mode=denoise --input=a --output=b --checkpoint=", "--checkpoint is empty; expected a path"),
    ("--mode=pair --input=a --output=c --dose_fraction=0.1",
     "--mode=pair takes no --dose_fraction"),
    ("--mode=pair --ndct=a --qdct=b --output=c --print_config",
     "--mode=pair takes no --print_config"),
    ("--mode=simulate --config=attn --output=a --workdir=b", "--mode=simulate takes no --workdir"),
    ("--mode=benchmark --config=attn --num_processes=2",
     "--mode=benchmark takes no --num_processes"),
    ("--config=attn --checkpoint=a", "--mode=train takes no --checkpoint; to start from its "
                                     "weights, give --config.initial_checkpoint=PATH"),
    ("--mode=simulate --config=attn --output=a --noise_seed=1",
     "--mode=simulate takes --noise_seed only with --input=SCAN"),
    ("--mode=simulate --config=attn", "--mode=simulate needs --output=PATH"),
    ("--mode=simulate --output=a",
     "--config is missing; expected one such as configs/attn.py:demo"),
    ("--mode=denoise --output=a", "--mode=denoise needs --input=PATH"),
    ("--mode=evaluate --config=attn", "--mode=evaluate needs --checkpoint=PATH[,PATH…]"),
    ("--mode=evaluate --print_config",
     "--config is missing; expected one such as configs/attn.py:demo"),
    ("--config.seed=1", "--config.seed changes a configuration, and --config is missing"),
    ("--config=attn --platfrom=cuda", "Unknown command line flag 'platfrom'. Did you mean: "
                                      "platform ?"),
    ("--config=attn train",
     "unexpected argument 'train'; options start with --; a mode is given as --mode=train"),
    ("--config=unet", "flag --config=unet: no such file, and no such configuration; there are "
                      "attn, cnn10, dfgan, nafnet, redcnn"),
    ("--config=atn:demo", "flag --config=atn:demo: no such file, and no such configuration (did "
                          "you mean 'attn'?); there are attn, cnn10, dfgan, nafnet, redcnn"),
    ("--config=configs/atn.py", "flag --config=configs/atn.py: no such file (did you mean "
                                "'configs/attn.py'?); there are configs/attn.py, configs/cnn10.py, "
                                "configs/dfgan.py, configs/nafnet.py, configs/redcnn.py"),
    ("--config=here.py", "flag --config=here.py: no such file; there are attn, cnn10, dfgan, "
                         "nafnet, redcnn"),
    ("--config.data.size=0 --config=attn", "--config.data.size is given before --config; "
                                           "expected --config first"),
    ("--config=base", "flag --config=base: no such file, and no such configuration; there are "
                      "attn, cnn10, dfgan, nafnet, redcnn"),
    ("--mode=fly --help", "unknown mode 'fly'; there are train, evaluate, denoise, convert, "
                          "simulate, pair, benchmark, preflight"),
])
def test_what_a_mode_cannot_use_is_refused(arguments, message):
    with pytest.raises(InputError) as refused:
        parse(*arguments.split())
    assert str(refused.value) == message


@pytest.mark.parametrize(("arguments", "message"), [
    ("", "the mode is missing; expected one of train, evaluate, denoise, convert, simulate, pair, "
         "benchmark, preflight as the first argument: dfgan-jax denoise"),
    ("--input=a denoise", "the mode is missing; expected one of train, evaluate, denoise, convert, "
                          "simulate, pair, benchmark, preflight as the first argument: dfgan-jax "
                          "denoise"),
    ("fly --config=attn", "unknown mode 'fly'; there are train, evaluate, denoise, convert, "
                          "simulate, pair, benchmark, preflight"),
    ("train", "--config is missing; expected one such as attn:demo"),
    ("denoise --input=a --output=b --workdir=c", "denoise takes no --workdir"),
    ("pair --ndct=a --qdct=b", "pair needs --output=PATH"),
    ("denoise train", "unexpected argument 'train'; options start with --"),
    ("train --config=attn --mode=evaluate", "Unknown command line flag 'mode'"),
])
def test_the_installed_command_takes_the_mode_first(arguments, message):
    with pytest.raises(InputError) as refused:
        parse(*arguments.split(), command=DFGAN_JAX)
    assert str(refused.value) == message


def test_a_configuration_is_found_by_path_and_by_name(tmp_path, monkeypatch):
    for name in ("configs/attn.py:demo", "attn:demo", f"{ROOT}/configs/attn.py:demo"):
        mode, values = parse(f"--config={name}", "--config.epochs=3")
        assert (mode, values.config.name, values.config.epochs) == ("train", "attn_demo", 3)
    monkeypatch.chdir(tmp_path)
    assert parse("train", "--config=attn:demo", command=DFGAN_JAX)[1].config.name == "attn_demo"
    (tmp_path / "attn").write_text("import ml_collections\n\n\ndef get_config(variant):\n"
                                   "    return ml_collections.ConfigDict({'name': variant * 2})\n")
    _, values = parse("--config=attn:demo")
    assert values.config.name == "demodemo"


@pytest.mark.parametrize(("field", "message"), [
    ("data.siz", "config.data has no field 'siz' (did you mean 'size'?); there are augment, "),
    ("crop", "config has no field 'crop' (did you mean config.data.crop?); there are accumulate, "),
    ("learning_rate", "(did you mean config.optimizer.generator_learning_rate?)"),
    ("data.epochs", "config.data has no field 'epochs' (did you mean config.epochs?); there are"),
    ("zzz", "config has no field 'zzz'; there are accumulate, ")])
def test_a_mistyped_field_gets_the_nearest_name(field, message):
    with pytest.raises(InputError) as refused:
        parse("--config=attn", f"--config.{field}=1")
    assert message in str(refused.value)


def test_a_wrong_path_lists_the_configurations_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, content in (("mine/good.py", "def get_config():\n    pass\n"),
                          ("mine/tool.py", "print()\n"), ("mine/base.py", "def get_config():\n")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    shipped = "there are attn, cnn10, dfgan, nafnet, redcnn"
    for given, message in (
            ("mine/god.py", "no such file (did you mean 'mine/good.py'?); there are mine/good.py"),
            ("none/good.py", f"no such file; {shipped}"),
            ("configs/attn.py", f"no such file (did you mean 'attn'?); {shipped}")):
        with pytest.raises(InputError) as refused:
            parse(f"--config={given}")
        assert str(refused.value) == f"flag --config={given}: {message}"


@pytest.mark.parametrize(("command", "error"), [(MAIN_PY, "--config is missing"),
                                                (DFGAN_JAX, "the mode is missing")])
def test_no_arguments_print_the_help_and_then_the_error(capsys, command, error):
    with pytest.raises(InputError, match=error):
        parse(command=command)
    assert capsys.readouterr().out.startswith("DFGAN in JAX: low-dose CT denoising.")


def test_what_else_a_mode_needs_is_not_needed_to_print_a_configuration():
    mode, values = parse("--mode=evaluate", "--config=attn", "--print_config")
    assert (mode, values.print_config) == ("evaluate", True)


def test_scans_take_what_a_configuration_says_of_them():
    mode, values = parse("--mode=simulate", "--config=attn", "--config.simulation.seed=5",
                         "--input=a", "--output=b", "--noise_seed=2",
                         "--full_dose_photons_per_ray=1e6", "--split=1,0,0", "--patients=study")
    assert (mode, values.config.simulation.seed, values.noise_seed) == ("simulate", 5, 2)
    assert (values.input, values.full_dose_photons_per_ray) == (["a"], 1e6)


def help_of(capsys, *arguments, command=MAIN_PY):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments, command=command)
    assert ended.value.code == 0
    text, errors = capsys.readouterr()
    assert errors == ""
    return text


@pytest.mark.parametrize("arguments", [
    ["--mode=denoise", "--help"], ["--help", "--mode", "denoise"], ["--mode=denoise", "-h"],
    ["--mode=train", "--mode=denoise", "--ouput=a", "-?"]])
def test_help_of_a_mode_shows_what_it_takes_and_nothing_else(capsys, arguments):
    text = help_of(capsys, *arguments)
    needed, optional = re.fullmatch(
        r"python main\.py --mode=denoise --input=PATH --output=PATH \[--FLAG=VALUE …\]\n\n"
        r"Denoises [^-]*\n\nNeeded:\n(.*)\n\nCan be left out:\n(.*)\n\nExample:\n  python main\.py "
        r"--mode=denoise --checkpoint=runs/mine --input=quarter_dose/ --output=denoised/ "
        r"--report=denoised\.html\n", text, re.DOTALL).groups()
    assert re.findall("--[a-z_.]+", needed) == ["--input", "--output"]
    assert re.findall("^  (--[a-z_.]+)", optional, re.MULTILINE) == [
        "--checkpoint", "--strength", "--dose_fraction", "--self_ensemble", "--report", "--workers",
        "--input_unit", "--axes", "--coordinator", "--num_processes", "--process_id",
        "--join_timeout"]


def test_help_of_the_installed_command_spells_it_so(capsys):
    text = help_of(capsys, "train", "--help", command=DFGAN_JAX)
    assert text.startswith("dfgan-jax train --config=FILE[:VARIANT] [--FLAG=VALUE …]\n")
    assert text.endswith("  dfgan-jax train --config=attn:demo --config.seed=1 "
                         "--workdir=runs/mine\n")


@pytest.mark.parametrize(("command", "modes"), [
    (MAIN_PY, "python main.py --mode=MODE"), (DFGAN_JAX, "dfgan-jax MODE")])
def test_help_without_a_mode_names_the_modes(capsys, command, modes):
    text = help_of(capsys, "--help", command=command)
    assert modes in text
    assert re.findall(r"^  (\w+)  +\w", text, re.MULTILINE) == [
        "train", "evaluate", "denoise", "convert", "simulate", "pair", "benchmark", "preflight"]
    assert max(map(len, text.splitlines())) <= 100
    examples = re.search(r"^Examples:\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)[1].splitlines()
    assert [parse(*example.removeprefix(f"  {command.program} ").split(), command=command)[0]
            for example in examples] == ["denoise", "train", "evaluate"]


@pytest.mark.parametrize("command", [MAIN_PY, DFGAN_JAX])
def test_the_version_is_printed_whatever_else_is_given(capsys, command):
    assert help_of(capsys, "--version", command=command) == f"dfgan-jax {dfgan_jax.__version__}\n"
    assert "dfgan-jax" in help_of(capsys, command.mode("denoise"), "--version", command=command)


@pytest.mark.parametrize("command", [MAIN_PY, DFGAN_JAX])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_an_example_that_it_takes(capsys, command, mode):
    arguments = [command.mode(mode), "--help"]
    *_, example = help_of(capsys, *arguments, command=command).splitlines()
    assert example.startswith(f"  {command.program} {command.mode(mode)} --")
    given = example.removeprefix(f"  {command.program} ").split()
    assert parse(*given, command=command)[0] == mode


def test_every_flag_belongs_to_a_mode():
    values = flags.FlagValues()
    command_line.define(values, command=MAIN_PY, sys_argv=[])
    listed = {name for mode in MODES.values() for name in names(mode.flags)}
    assert listed - {"config.FIELD"} == set(values) - {"mode"}
    # No flag stands twice in a mode, and what help says of a choice is what is taken.
    for mode in MODES.values():
        assert len(mode.flags) == len(mode.needed) + len(mode.optional) + len(mode.with_input)
        for flag in mode.flags:
            name, _, choices = flag.partition("=")
            if "|" in choices:
                assert choices.split("|") == list(values[name].parser.enum_values)


def test_a_tilde_is_the_home_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text((ROOT / "configs" / "attn.py").read_text())
    _, values = parse("--config=~/mine.py:demo", "--workdir=~/run")
    assert (values.config.name, values.workdir) == ("attn_demo", f"{tmp_path}/run")
    _, values = parse("--mode=denoise", "--input=~/a.npy", "--output=~/b.npy", "--report=~/c.html",
                      "--checkpoint=~/run")
    assert [values.input, values.output, values.report, values.checkpoint] == [
        [f"{tmp_path}/a.npy"], f"{tmp_path}/b.npy", f"{tmp_path}/c.html", [f"{tmp_path}/run"]]
    _, values = parse("--mode=pair", "--ndct=~/n", "--qdct=~/q", "--qdct=r", "--output=~")
    assert [values.ndct, values.qdct, values.output] == [
        [f"{tmp_path}/n"], [f"{tmp_path}/q", "r"], str(tmp_path)]


def test_what_exists_under_a_name_with_a_tilde_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    assert parse("--mode=denoise", "--input=~", "--output=o")[1].input == ["~"]


def test_a_checkpoint_with_a_comma_is_one_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    denoise = ["--mode=denoise", "--input=a", "--output=b", "--checkpoint=run,1"]
    assert parse(*denoise)[1].checkpoint == ["run", "1"]
    (tmp_path / "run,1").mkdir()
    assert parse(*denoise)[1].checkpoint == ["run,1"]

import json
import os
import signal
import subprocess
import sys
import tomllib

import pytest

from dfgan_jax.devices.huge_pages import HUGE_PAGES
from tests.cli import command

INSTALLED = tomllib.loads((command.ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.fixture
def site(tmp_path):
    """A folder of packages, as pip leaves it: the configurations lie within the package."""
    package = tmp_path / "site" / "dfgan_jax"
    package.mkdir(parents=True)
    for path in (command.ROOT / "dfgan_jax").iterdir():
        (package / path.name).symlink_to(path)
    (package / "configs").symlink_to(command.ROOT / "configs")
    return package.parent


def run_installed(site, folder, *arguments):
    """Runs the command that pip installs, from another folder than the checkout."""
    module, function = INSTALLED["dfgan-jax"].split(":")
    folder.mkdir(exist_ok=True)
    # -P, since the folder is not on Python's path there.
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"from {module} import {function}; {function}()", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(site), "GLIBC_TUNABLES": ""},
        capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_a_configuration_is_printed_with_its_overrides():
    done = command.run("--config=configs/attn.py:demo", "--config.batch_size=6",
                       "--config.data.augment", "--print_config")
    assert (done.returncode, done.stderr) == (0, "")
    config = json.loads(done.stdout)
    assert (config["name"], config["batch_size"], config["epochs"]) == ("attn_demo", 6, 10)
    assert (config["data"]["augment"], config["data"]["size"]) == (True, 128)


@pytest.mark.parametrize("options", [["--config=configs/attn.py", "--print_config"], ["--help"]])
def test_a_reader_that_ends_early_ends_it_quietly_as_sigpipe_would(options):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run([sys.executable, "main.py", *options], cwd=command.ROOT, check=False,
                              stdout=closed, stderr=subprocess.PIPE, timeout=300)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_help_ends_well():
    done = command.run("--help", "--mode=denoise")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("python main.py --mode=denoise --input=PATH --output=PATH ")


def test_the_installed_command_brings_its_configurations(site, tmp_path):
    done = run_installed(site, tmp_path / "other", "train", "--config=redcnn:demo",
                         "--config.seed=4", "--print_config")
    assert (done.returncode, done.stderr) == (0, "")
    config = json.loads(done.stdout)
    assert (config["name"], config["generator"]["architecture"], config["seed"]) == (
        "redcnn_demo", "redcnn", 4)


def test_without_a_checkpoint_a_folder_with_the_name_of_the_default_is_none(site, tmp_path):
    (tmp_path / "other" / "attn_dfgan").mkdir(parents=True)
    done = run_installed(site, tmp_path / "other", "denoise", "--input=a.npy", "--output=b.npy")
    assert done.stdout.startswith("attn_dfgan, version ")
    assert "a.npy: no such file or folder" in done.stderr


def test_configurations_of_a_checkout_go_before_those_installed(site, tmp_path):
    configs = tmp_path / "other" / "configs"
    configs.mkdir(parents=True)
    (configs / "attn.py").write_text((command.ROOT / "configs" / "attn.py").read_text())
    base = (command.ROOT / "configs" / "base.py").read_text()
    (configs / "base.py").write_text(base.replace("config.epochs = 200", "config.epochs = 7"))
    for config, epochs in (("configs/attn.py", 7), ("attn", 200)):
        done = run_installed(site, tmp_path / "other", "train", f"--config={config}",
                             "--print_config")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["epochs"] == epochs


def test_the_installed_command_tells_errors_in_one_line(site, tmp_path):
    done = run_installed(site, tmp_path / "other", "denoise", "--input=a", "--output=b",
                         "--config=attn")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: denoise takes no --config\n"


@pytest.mark.parametrize("options", [
    ["--mode=denoise", "--input=a", "--output=b"],
    ["--mode=evaluate", "--config=configs/attn.py:demo", "--checkpoint=attn_dfgan"]])
@pytest.mark.parametrize("platform", ["cuda", "bogus"])
def test_platforms_that_the_machine_lacks_are_named_in_one_line(tmp_path, platform, options):
    environment = {**os.environ, "JAX_PLATFORMS": platform, "GLIBC_TUNABLES": HUGE_PAGES}
    done = subprocess.run([sys.executable, str(command.ROOT / "main.py"), *options],
                          cwd=command.ROOT, env=environment, capture_output=True, text=True,
                          timeout=300, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"error: JAX_PLATFORMS is '{platform}', and JAX cannot use it on this "
                           "machine")
    assert "Traceback" not in done.stderr

import pytest

from tests.cli import command


@pytest.mark.parametrize(("options", "message"), [
    ([], "--config is missing"),
    (["--config=configs/attn.py", "--checkpoint=a,b"], "needs one --checkpoint=PATH; 2 are given"),
    (["--config=configs/attn.py", "--output=a"], "--mode=benchmark takes no --output"),
    (["--config=configs/attn.py", "--config.batch_size=0"], "config.batch_size is 0"),
    (["--config=configs/attn.py", "--config.generator.width=2", "--config.discriminator.width=2",
      "--checkpoint=absent"], "absent: no such file or folder, nor pretrained"),
])
def test_what_cannot_be_used_is_told_in_one_line(tmp_path, options, message):
    done = command.run("--mode=benchmark", *options, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()

import subprocess
import sys

import pytest

from tests.cli import command


@pytest.mark.parametrize(("options", "message"), [
    ([], "--config is missing"),
    (["--config=configs/attn.py", "--mode=fly"], "train|evaluate|denoise|convert|simulate"),
    (["--config=configs/attn.py", "--config.batchsize=3"],
     "no field 'batchsize' (did you mean 'batch_size'?); there are"),
    (["--config=configs/attn.py:tiny"],
     "no variant 'tiny': there are demo, native, open, slides, published"),
    (["--config=configs/absent.py"], "absent.py"),
    (["--config=configs/attn.py", "--config.batch_size=many"], "many"),
    (["--config=configs/attn.py", "--mode=evaluate"], "needs --checkpoint"),
    (["--config=configs/attn.py", "train"], "unexpected argument 'train'"),
    (["--config=configs/attn.py", "--config.data.train=absent.npy",
      "--config.data.valid=absent.npy"], "absent.npy: no such file"),
    (["--config=configs/attn.py", "--config.data.train=absent.npy"],
     "error: config.data.valid is empty, but config.data.train is absent.npy: phantoms would"),
    (["--config=configs/attn.py", "--mode=evaluate", "--checkpoint=dfgan",
      "--config.data.valid=absent.npy"],
     "error: config.data.test is empty, but config.data.valid is absent.npy: the scores would"),
])
def test_what_cannot_be_used_is_told_in_one_line(options, message, tmp_path):
    workdir = tmp_path / "run"
    done = command.run(*options, f"--workdir={workdir}",
                       f"--config.data.cache_dir={tmp_path}") if options else command.run()
    assert done.returncode not in (0, -9)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    pairs = command.make_pairs(tmp_path)
    (tmp_path / "file").write_text("")
    done = command.run(*command.TINY, *pairs, f"--workdir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: [Errno 20] Not a directory")


def test_help_does_not_load_jax():
    code = "import sys, main; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=command.ROOT, check=False)
    assert done.returncode == 0


def test_unknown_field_lists_what_there_is():
    done = command.run("--config=configs/attn.py", "--config.generator.depth=3")
    assert done.returncode != 0
    assert done.stderr.strip() == (
        "error: config.generator has no field 'depth'; there are add_image, architecture, "
        "attention, blocks, gate_window, momentum, normalization, open_gates, output, width")

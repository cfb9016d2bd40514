import os
import platform
import subprocess
import sys

import pytest

from dfgan_jax.devices import huge_pages

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")

PROGRAM = """
import os, sys
from dfgan_jax.devices.huge_pages import use_huge_pages
print("start", flush=True)
use_huge_pages()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:], sys.flags.optimize)
"""


def run(tmp_path, **environment):
    (tmp_path / "program.py").write_text(PROGRAM)
    inherited = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-O", tmp_path / "program.py", "a b", "--c"],
                          capture_output=True, text=True, check=True,
                          env={**inherited, "PYTHONPATH": os.getcwd(), **environment})
    return done.stdout.splitlines()


def test_starts_again_once_with_the_same_arguments(tmp_path):
    assert run(tmp_path) == ["start", "start", f"{huge_pages.HUGE_PAGES} ['a b', '--c'] 1"]


@pytest.mark.parametrize("set_by_user", ["", "glibc.malloc.arena_max=2"])
def test_leaves_what_a_user_has_set(tmp_path, set_by_user):
    assert run(tmp_path, GLIBC_TUNABLES=set_by_user) == [
        "start", f"{set_by_user} ['a b', '--c'] 1"]

"""The processes of both frameworks, and their interpreters."""

import contextlib
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from typing import Any, NoReturn

from dfgan_jax.devices.huge_pages import HUGE_PAGES
from dfgan_jax.support.errors import InputError

_ROOT = pathlib.Path(__file__).absolute().parent.parent


class WorkerError(RuntimeError):
    """A process ended, or an essential side failed."""


class RefusedError(RuntimeError):
    """A worker could not fulfil a request."""


def find_torch(given: str | None, *, folder: pathlib.Path = _ROOT) -> str:
    """The interpreter that has PyTorch.

    Args:
      given: by the user.
      folder: of the virtual environments of `make`.

    Raises:
      InputError: no interpreter has PyTorch.
    """
    if given is not None:
        return given
    if importlib.util.find_spec("torch") is not None:
        return sys.executable
    for python in sorted(folder.glob(".venv-*/bin/python")):
        test = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
        if subprocess.run([python, "-c", test], check=False, capture_output=True).returncode == 0:
            return str(python)
    raise InputError("no interpreter with PyTorch found: make against-torch installs one, or pip "
                     "install -r requirements-parity.txt, or name one: --torch_python=PATH")


class WorkerProcess:
    """A framework in a process of its own; see `benchmarks.worker`.

    Raises:
      InputError: the interpreter cannot be started.
    """

    def __init__(self, framework: str, python: str):
        self._name = f"the {framework} process ({python})"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._connection, end = Pipe()
        # Relative to the user's folder; links stay, since Python finds its environment by the link.
        path = os.path.abspath(python) if os.sep in python else python
        try:
            self._process = subprocess.Popen(
                [path, "-m", "benchmarks.worker", framework, str(end.fileno())],
                pass_fds=[end.fileno()], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=self._log,
                stderr=subprocess.STDOUT,
                # Its own process group, so that its compilers end with it.
                start_new_session=True,
                env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | (
                    # As main.py does for itself; PyTorch runs as its users start it.
                    {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", HUGE_PAGES)}
                    if framework == "jax" else {}))
        except OSError as error:
            raise InputError(f"{python}: cannot be started ({error.strerror})") from error
        finally:
            end.close()

    def ask(self, *request: Any, timeout_s: float | None = None) -> Any:
        """Sends a request, and waits for the answer.

        Raises:
          RefusedError: the worker could not fulfil the request.
          WorkerError: the process ended.
          TimeoutError: there was no answer in time; the process cannot be used any more.
        """
        self.send(*request)
        return self.receive(timeout_s=timeout_s)

    def send(self, *request: Any) -> None:
        try:
            self._connection.send(request)
        except OSError:
            self._tell_end()

    def receive(self, *, timeout_s: float | None = None) -> Any:
        try:
            if not self._connection.poll(timeout_s):
                raise TimeoutError
            done, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._tell_end()
        if not done:
            raise RefusedError(answer)
        return answer

    def _tell_end(self) -> NoReturn:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or ["no output"]
        raise WorkerError(f"{self._name} ended with status {status}: {lines[-1]}")

    def close(self) -> None:
        """Ends the process and its children."""
        self._connection.close()
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


class Workers:
    """Both processes, each started on its first use; a context manager."""

    def __init__(self, pythons: dict[str, str]):
        self._pythons = pythons
        self._running: dict[str, WorkerProcess] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for framework in list(self._running):
            self.end(framework)

    def __getitem__(self, framework: str) -> WorkerProcess:
        if framework not in self._running:
            self._running[framework] = WorkerProcess(framework, self._pythons[framework])
        return self._running[framework]

    def end(self, framework: str) -> None:
        self._running.pop(framework).close()

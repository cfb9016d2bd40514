"""A SLURM of one node: munged, slurmctld and slurmd with folders and ports of their own.

  python -m tests.launch.slurm install

installs Debian's packages, once; nothing else here changes the machine.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

_PACKAGES = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm",
             "munged": "munge"}

# A container without systemd and cgroups can be the node, and has as many processors as the jobs
# want. A requeued job waits for cred_expire; below 5 SLURM takes its default of 120 s. JAX makes
# its port of the job's number, which another cluster on this machine must not have, too.
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={name}(127.0.0.1)
NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 CPUs=32
PartitionName=test Nodes=ALL Default=YES State=UP
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={slurmctld_port}
FirstJobId={slurmctld_port}
SlurmdPort={slurmd_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
"""


def missing() -> str | None:
    """Says why no cluster can be started here; None where one can."""
    for command in _PACKAGES:
        if _which(command) is None:
            return f"{command} is not installed: python -m tests.launch.slurm install"
    if os.geteuid() != 0:
        return "slurmd needs root to start jobs"
    return None


def install() -> None:
    """Installs Debian's packages; their own daemons need not be started."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends",
                                       *sorted(set(_PACKAGES.values()))]):
        subprocess.run(["apt-get", *command], env=environment, check=True)


class Cluster:
    """A running cluster, and its commands."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str, check: bool = True) -> str:
        """Runs a command such as `scontrol`, and returns what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True,
                              timeout=30, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` tells: JobState, ExitCode, Restarts …"""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "-o", "show", "job", number)))


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Starts a cluster, and stops it with all of its jobs."""
    # A socket's path takes at most 107 characters: pytest's folders are longer.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm_"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        started = Cluster(folder)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        slurmctld_port, slurmd_port = _free_ports(2)
        (folder / "slurm.conf").write_text(_CONFIGURATION.format(
            folder=folder, name="localhost", hostname=socket.gethostname().split(".")[0],
            slurmctld_port=slurmctld_port, slurmd_port=slurmd_port))

        def daemon(command: str, *options: str) -> None:
            with (folder / f"{command}.out").open("w") as log:
                process = subprocess.Popen([_which(command) or command, *options],
                                           env=started.environment, stdout=log,
                                           stderr=subprocess.STDOUT)
            stack.callback(_stop, process)

        # --force, for /tmp is written to by all.
        daemon("munged", "--foreground", "--force", f"--key-file={folder / 'munge.key'}",
               f"--socket={folder / 'munge.socket'}", f"--pid-file={folder / 'munged.pid'}",
               f"--log-file={folder / 'munged.log'}", f"--seed-file={folder / 'munged.seed'}")
        _wait(folder, (folder / "munge.socket").exists, "munged's socket")
        daemon("slurmctld", "-D")
        daemon("slurmd", "-D")
        _wait(folder, lambda: "idle" in started.run("sinfo", "-h", "-o", "%t", check=False),
              "the node")
        stack.callback(_cancel_all, started)
        yield started


def _which(command: str) -> str | None:
    """Finds daemons too, which are not in every user's PATH."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]


def _cancel_all(started: Cluster) -> None:
    started.run("scancel", "--signal=KILL", "--full", "--user=root", check=False)
    started.run("scancel", "--user=root", check=False)
    _wait(started.folder, lambda: not started.run("squeue", "-h", check=False), "the jobs' end")


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(folder: pathlib.Path, condition: Callable[[], bool], what: str,
          timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            logs = "".join(f"\n{path.name}:\n{path.read_text()[-2000:]}" for path in
                           [*folder.glob("*.log"), *folder.glob("*.out")])
            raise TimeoutError(f"waited {timeout_s} s for {what}{logs}")
        time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python -m tests.launch.slurm install")
    install()

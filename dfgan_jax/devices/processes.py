"""The processes of one run: joining them, watching over them, and ending together."""

import atexit
import contextlib
import ctypes
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax

from dfgan_jax.devices import agreement, tpu_chips
from dfgan_jax.devices.agreement import FOR_EVER_MS
from dfgan_jax.devices.launchers import Place, find_place
from dfgan_jax.support.errors import InputError, ProcessError, first_line, is_out_of_memory
from dfgan_jax.support.progress import hidden

LOST_AFTER_S = 30.0
"""A process that has said nothing for this long counts as lost."""

LOST = ProcessError.STATUS
"""Status of a process that ends since another was lost: starting all again may help."""

_JAX_LOST_AFTER_S = 45  # should process 0 be silent; else this comes after our own word
_BEAT_S = 1.0
_ADVICE = "; the same command, of all processes, goes on from the latest checkpoint"
_LEAVING_MS = 10_000


@contextlib.contextmanager
def joined(place: Place, *, timeout_s: int = 300) -> Iterator[None]:
    """Joins this process to the others of its run, for the time of a `with` block.

    Only process 0 prints. When a process ends by an error, is killed or lost, each of the
    others says so and ends itself within a minute, with status `LOST` or 1.

    Args:
      place: as the flags say.
      timeout_s: how long the others may take to come.

    Raises:
      InputError: the others cannot be joined.
      ProcessError: another one was lost while this one computed with it.
    """
    found = find_place(place, os.environ, on_tpu=tpu_chips.usable())
    if found is None:
        yield
        return
    _initialize(found, timeout_s=timeout_s)
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch()
    watch.start()
    ended: SystemExit | None = None  # in all processes, since they agree on it
    try:
        with _silent() if jax.process_index() else contextlib.nullcontext():
            try:
                yield
            except SystemExit as error:
                ended = error
            agreement.barrier("end")
    except BaseException as error:
        shared = _of_the_others(error)
        if shared:
            watch.join(timeout=5 * _BEAT_S)  # which ends the process, should it know more
        watch.tell(str(error) or type(error).__name__, lost=shared)
        # JAX would wait for the others at the exit, who wait for this process.
        atexit.register(_leave_at_once, LOST if shared else
                        130 if isinstance(error, KeyboardInterrupt) else 1)
        if shared:
            raise ProcessError(
                f"what all processes compute together has failed ({first_line(error)}): another "
                f"process was killed, or is lost{_ADVICE}") from error
        raise
    watch.stop()
    atexit.register(_see_the_others_leave, int(ended.code or 0) if ended else 0)
    if ended:
        raise ended


def _of_the_others(error: BaseException) -> bool:
    """Whether an error may come from another process, through a computation that is shared."""
    return isinstance(error, jax.errors.JaxRuntimeError) and not is_out_of_memory(error)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(_number: int) -> None:
    """Says in one line what JAX has said in many, as its client aborts the process."""
    os.write(2, b"error: JAX ended this process (the lines above say why): mostly since another "
             b"process of this run was killed, is lost, or did not come in time"
             + _ADVICE.encode() + b"\n")
    os._exit(LOST)


def _tell_aborts() -> None:
    # JAX lets nobody else decide what follows from a lost process 0, or one that does not come;
    # and a handler of Python's own would wait for the main thread.
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGABRT, ctypes.cast(_aborted, ctypes.c_void_p))


def _initialize(place: Place, *, timeout_s: int) -> None:
    if place.process_id == 0 and place.coordinator is not None:
        _refuse_taken_port(place.coordinator)
    # JAX would catch SIGTERM before us, and ask for another way of stopping.
    jax.config.update("jax_enable_preemption_service", False)
    _tell_aborts()
    method = {"flags": "deactivate", "slurm": "slurm", "ompi": "ompi"}.get(str(place.cluster))
    try:
        devices = None
        if place.cluster == "ompi":  # a GPU for each process; JAX asks mpi4py for it, if it may
            devices = [int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])]
        jax.distributed.initialize(place.coordinator, place.num_processes, place.process_id,
                                   local_device_ids=devices, cluster_detection_method=method,
                                   initialization_timeout=timeout_s,
                                   heartbeat_timeout_seconds=_JAX_LOST_AFTER_S)
    except Exception as error:  # the package kubernetes, for one, has its own kinds
        raise InputError(
            f"the other processes of this run cannot be joined ({place.cluster}: "
            f"{first_line(error)}); "
            "coordinator=HOST:PORT, num_processes=N and process_id=I say where they are, "
            "num_processes=1 runs this one alone") from error


def _refuse_taken_port(coordinator: str) -> None:
    """JAX would share the port with the run that listens there, or crash; both would be lost."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, ValueError) as error:
        raise InputError(f"coordinator is {coordinator}: cannot listen there ({error}); each run "
                         "needs a port of its own") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with (open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), hidden()):
        yield


def _see_the_others_leave(status: int) -> None:
    """Before JAX waits for them; at the end of all work, one that is killed must not matter."""
    try:
        if agreement.is_main():
            for index in range(1, jax.process_count()):
                agreement.client().blocking_key_value_get(f"leaves/{index}", _LEAVING_MS)
        else:
            agreement.client().key_value_set(f"leaves/{jax.process_index()}", "")
    except jax.errors.JaxRuntimeError:  # one was killed, or process 0 has gone before
        _leave_at_once(status)


def _leave_at_once(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


class _Watch(threading.Thread):
    """Has each process say that it lives, and ends this one when another does not.

    A thread, since the process itself may wait in a computation for the lost one.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True, name="watch over processes")
        self._client = agreement.client()
        self._index, self._count = jax.process_index(), jax.process_count()
        self._host = socket.gethostname()
        self._stopped = threading.Event()

    def run(self) -> None:
        waiting = threading.Thread(target=self._wait_for_process_0, daemon=True)
        waiting.start()
        heard: dict[int, tuple[str, float]] = {}
        try:
            for beat in itertools.count():
                self._say(f"alive/{self._index}", f"{beat} {self._host}")
                for key, reason in self._client.key_value_dir_get("end/"):
                    self._end(reason, status=LOST if key.endswith("/lost") else 1)
                if self._index == 0:
                    self._listen(heard)
                if self._stopped.wait(_BEAT_S):
                    break
            self._say(f"stopped/{self._index}", "")
            waiting.join()  # JAX's client must not be taken down while a thread asks it
        except jax.errors.JaxRuntimeError as error:
            self._end_without_process_0(error)

    def _wait_for_process_0(self) -> None:
        """Notices at once that process 0 is gone, where JAX soon aborts without saying which."""
        try:
            self._client.blocking_key_value_get(f"stopped/{self._index}", FOR_EVER_MS)
        except jax.errors.JaxRuntimeError as error:
            self._end_without_process_0(error)

    def _end_without_process_0(self, error: Exception) -> None:
        self._end(f"process 0 of this run was killed, or is lost ({first_line(error)}){_ADVICE}",
                  status=LOST)

    def stop(self) -> None:
        """No longer cares for the others."""
        self._stopped.set()
        self.join()

    def tell(self, reason: str, *, lost: bool) -> None:
        """Tells the others that this process ends, and why; they end, too.

        Args:
          reason: of its end.
          lost: that another process is the reason.
        """
        self._stopped.set()
        self._publish(f"process {self._index} of this run ({self._host}) ended: {reason}",
                      name="lost" if lost else str(self._index))

    def _say(self, key: str, value: str) -> None:
        self._client.key_value_set(key, value, allow_overwrite=True)

    def _publish(self, reason: str, *, name: str) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has gone before
            self._say(f"end/{name}", reason)
            self._let_the_others_ask()

    def _let_the_others_ask(self) -> None:
        if self._index == 0:  # whose end would be all that they learn
            time.sleep(3 * _BEAT_S)

    def _listen(self, heard: dict[int, tuple[str, float]]) -> None:
        """Notices who has said nothing new for too long; only process 0's clock counts."""
        now = time.monotonic()
        said = {int(key.rsplit("/", 1)[1]): value
                for key, value in self._client.key_value_dir_get("alive/")}
        for index in range(self._count):
            value = said.get(index, "0 ?")
            if index not in heard or heard[index][0] != value:
                heard[index] = (value, now)
            elif now - heard[index][1] > LOST_AFTER_S:
                reason = (f"process {index} of this run ({value.split(' ', 1)[1]}) was killed, or "
                          f"is lost: it has said nothing for {LOST_AFTER_S:.0f} s{_ADVICE}")
                self._publish(reason, name="lost")
                self._end(reason, status=LOST)

    def _end(self, reason: str, *, status: int) -> None:
        """Ends the process, unless it is ending already."""
        if not self._stopped.is_set():
            print(f"error: {reason}", file=sys.__stderr__, flush=True)
            self._let_the_others_ask()
            os._exit(status)

"""The processes of one run: they join, watch each other, and end together."""

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
from dfgan_jax.support.jax_functions import configure
from dfgan_jax.support.progress import hidden

LOST_AFTER_S = 30.0
"""A process without a sign of life for this long counts as lost."""

LOST = ProcessError.STATUS
"""Exit status of a process after the loss of another; a restart of all may succeed."""

_JAX_LOST_AFTER_S = 45  # longer than `LOST_AFTER_S`, so that our own message comes first
_BEAT_S = 1.0
_ADVICE = "; the same command, of all processes, resumes it"
_LEAVING_MS = 10_000



@contextlib.contextmanager
def joined(place: Place, *, timeout_s: int = 300) -> Iterator[None]:
    """Joins this process to the others of its run, for the duration of a `with` block.

    Only process 0 prints. When a process ends by an error, is killed or is lost, each of the
    others prints the reason and ends within a minute, with status `LOST` or 1.

    Args:
      place: from the flags.
      timeout_s: limit of the wait for the other processes.

    Raises:
      InputError: the other processes cannot be joined.
      ProcessError: another process was lost during a shared computation.
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
    ended: SystemExit | None = None  # raised in all processes, since they agree on it
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
            watch.join(timeout=5 * _BEAT_S)  # ends the process if it knows the reason
        passes = shared or isinstance(error, ProcessError)
        watch.tell(str(error) or type(error).__name__, lost=passes)
        # At exit JAX waits for the others, which wait for this process.
        atexit.register(_leave_at_once, LOST if passes else
                        130 if isinstance(error, KeyboardInterrupt) else 1)
        if shared:
            raise ProcessError(
                f"the shared computation of all processes failed ({first_line(error)}): another "
                f"process was killed, or is lost{_ADVICE}") from error
        raise
    watch.stop()
    atexit.register(_see_the_others_leave, int(ended.code or 0) if ended else 0)
    if ended:
        raise ended


def _of_the_others(error: BaseException) -> bool:
    """Whether an error may come from another process, through a shared computation."""
    return isinstance(error, jax.errors.JaxRuntimeError) and not is_out_of_memory(error)


def _report_abort(_number: int) -> None:
    """Sums up JAX's messages in one line when its client aborts the process."""
    os.write(2, b"error: JAX ended this process (the reason is in the lines above): mostly since "
             b"another process of this run was killed, is lost, or did not come in time"
             + _ADVICE.encode() + b"\n")
    os._exit(LOST)


_abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_report_abort)  # kept alive for C


def _handle_aborts() -> None:
    # JAX aborts when process 0 is lost or does not come, and offers no hook; a Python signal
    # handler would wait for the main thread.
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGABRT, ctypes.cast(_abort_handler, ctypes.c_void_p))


def _initialize(place: Place, *, timeout_s: int) -> None:
    if place.process_id == 0 and place.coordinator is not None:
        _refuse_taken_port(place.coordinator)
    # JAX's service would catch SIGTERM before our own handler.
    configure("jax_enable_preemption_service", False)
    _handle_aborts()
    method = {"flags": "deactivate", "slurm": "slurm", "ompi": "ompi"}.get(str(place.cluster))
    try:
        devices = None
        if place.cluster == "ompi":  # one GPU per process; JAX itself would need mpi4py
            devices = [int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])]
        jax.distributed.initialize(place.coordinator, place.num_processes, place.process_id,
                                   local_device_ids=devices, cluster_detection_method=method,
                                   initialization_timeout=timeout_s,
                                   heartbeat_timeout_seconds=_JAX_LOST_AFTER_S)
    except Exception as error:  # the package kubernetes, for one, has its own exceptions
        raise InputError(
            f"the other processes of this run cannot be joined ({place.cluster}: "
            f"{first_line(error)}); "
            "set coordinator=HOST:PORT, num_processes=N and process_id=I, or num_processes=1 for "
            "a run of this process alone") from error


def _refuse_taken_port(coordinator: str) -> None:
    """Refuses a port in use: JAX would share it with another run, or crash, and end both runs."""
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
    """Waits for the others, at exit, before JAX does; a process killed by now is no error."""
    try:
        if agreement.is_main():
            for index in range(1, jax.process_count()):
                agreement.client().blocking_key_value_get(f"leaves/{index}", _LEAVING_MS)
        else:
            agreement.client().key_value_set(f"leaves/{jax.process_index()}", "")
    except jax.errors.JaxRuntimeError:  # one was killed, or process 0 has ended
        _leave_at_once(status)


def _leave_at_once(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


class _Watch(threading.Thread):
    """Sends signs of life, and ends this process when another is lost.

    A thread, since the process itself may wait for the lost one in a computation.
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
                self._set(f"alive/{self._index}", f"{beat} {self._host}")
                for key, reason in self._client.key_value_dir_get("end/"):
                    self._end(reason, status=LOST if key.endswith("/lost") else 1)
                if self._index == 0:
                    self._listen(heard)
                if self._stopped.wait(_BEAT_S):
                    break
            self._set(f"stopped/{self._index}", "")
            waiting.join()  # JAX's client must outlive the calls of other threads
        except jax.errors.JaxRuntimeError as error:
            self._end_without_process_0(error)

    def _wait_for_process_0(self) -> None:
        """Ends with a message when process 0 is lost, before JAX aborts without naming it."""
        try:
            self._client.blocking_key_value_get(f"stopped/{self._index}", FOR_EVER_MS)
        except jax.errors.JaxRuntimeError as error:
            self._end_without_process_0(error)

    def _end_without_process_0(self, error: Exception) -> None:
        self._end(f"process 0 of this run was killed, or is lost ({first_line(error)}){_ADVICE}",
                  status=LOST)

    def stop(self) -> None:
        """Ends the watch; the loss of another process no longer matters."""
        self._stopped.set()
        self.join()

    def tell(self, reason: str, *, lost: bool) -> None:
        """Reports the end of this process and its reason to the others, which end, too.

        Args:
          reason: of the end.
          lost: whether the reason is another process, lost or in the way.
        """
        self._stopped.set()
        self._publish(f"process {self._index} of this run ({self._host}) ended: {reason}",
                      name="lost" if lost else str(self._index))

    def _set(self, key: str, value: str) -> None:
        self._client.key_value_set(key, value, allow_overwrite=True)

    def _publish(self, reason: str, *, name: str) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has ended
            self._set(f"end/{name}", reason)
            self._let_the_others_read()

    def _let_the_others_read(self) -> None:
        if self._index == 0:  # with process 0 the service ends, and the reason would be lost
            time.sleep(3 * _BEAT_S)

    def _listen(self, heard: dict[int, tuple[str, float]]) -> None:
        """Finds processes without a new sign of life, by the clock of process 0."""
        now = time.monotonic()
        beats = {int(key.rsplit("/", 1)[1]): value
                 for key, value in self._client.key_value_dir_get("alive/")}
        for index in range(self._count):
            value = beats.get(index, "0 ?")
            if index not in heard or heard[index][0] != value:
                heard[index] = (value, now)
            elif now - heard[index][1] > LOST_AFTER_S:
                reason = (f"process {index} of this run ({value.split(' ', 1)[1]}) was killed, or "
                          f"is lost: it has said nothing for {LOST_AFTER_S:.0f} s{_ADVICE}")
                self._publish(reason, name="lost")
                self._end(reason, status=LOST)

    def _end(self, reason: str, *, status: int) -> None:
        """Ends the process, unless its end has begun."""
        if not self._stopped.is_set():
            print(f"error: {reason}", file=sys.__stderr__, flush=True)
            self._let_the_others_read()
            os._exit(status)

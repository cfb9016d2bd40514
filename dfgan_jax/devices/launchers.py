"""The place of a process in its run: from its flags, or from its launcher."""

import dataclasses
from collections.abc import Mapping

from dfgan_jax.support.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a process in its run; JAX determines the values that are None.

    Attributes:
      coordinator: HOST:PORT that process 0 listens on.
      num_processes: number of processes.
      process_id: index of this process, from 0.
      cluster: `flags`, or the launcher: `slurm`, `ompi`, `tpu` or `k8s`.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    cluster: str | None = None


def find_place(place: Place, environment: Mapping[str, str], *, on_tpu: bool) -> Place | None:
    """Finds the place of a process for JAX, from its flags and its launcher's variables.

    Args:
      place: from the flags.
      environment: of the process.
      on_tpu: whether the process has TPU chips.

    Returns:
      The place; None for the only process of its run.

    Raises:
      InputError: the flags contradict each other, or are incomplete.
    """
    if place.num_processes == 1:
        if place.process_id:
            raise InputError(f"process_id is {place.process_id}; expected 0, since "
                             "num_processes is 1")
        return None
    if None not in (place.coordinator, place.num_processes, place.process_id):
        _check(place)
        return dataclasses.replace(place, cluster="flags")

    def several(name: str) -> bool:
        return environment.get(name, "1") not in ("", "1")

    # Before SLURM: mpirun's own daemons run as a SLURM step on the nodes after the first.
    if several("OMPI_COMM_WORLD_SIZE"):
        found = Place(coordinator=place.coordinator, cluster="ompi",
                      num_processes=int(environment["OMPI_COMM_WORLD_SIZE"]),
                      process_id=int(environment["OMPI_COMM_WORLD_RANK"]))
        for name in ("num_processes", "process_id"):
            given = getattr(place, name)
            if given not in (None, getattr(found, name)):
                raise InputError(f"{name} is {given}, and Open MPI says {getattr(found, name)}; "
                                 "leave it out")
        return found
    # Only a step of srun, not a batch script. An interactive step has a single task, while its
    # SLURM_NTASKS may be the allocation's.
    if "SLURM_STEP_NODELIST" in environment and several(
            "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"):
        return dataclasses.replace(place, cluster="slurm")
    if on_tpu:
        return dataclasses.replace(place, cluster="tpu")
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys():
        return dataclasses.replace(place, cluster="k8s")
    if place != Place():
        missing = [name for name in ("coordinator", "num_processes", "process_id")
                   if getattr(place, name) is None]
        raise InputError(f"{', '.join(missing)} missing: outside SLURM, Open MPI, Kubernetes and "
                         "TPU slices, a process needs coordinator=HOST:PORT, "
                         "num_processes=N and process_id=I")
    return None


def _check(place: Place) -> None:
    host, colon, port = str(place.coordinator).rpartition(":")
    if not (host and colon and port.isdigit()):
        raise InputError(f"coordinator is {place.coordinator!r}; expected HOST:PORT")
    assert place.num_processes is not None
    assert place.process_id is not None
    if not 0 <= place.process_id < place.num_processes:
        raise InputError(f"process_id is {place.process_id}; expected 0 to "
                         f"{place.num_processes - 1}, since num_processes is "
                         f"{place.num_processes}")

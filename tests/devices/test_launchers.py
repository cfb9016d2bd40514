import pytest

from dfgan_jax.devices.launchers import Place, find_place
from dfgan_jax.support.errors import InputError

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2",
         "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}
ALL_FLAGS = Place(coordinator="host:1", num_processes=3, process_id=2)


@pytest.mark.parametrize(("place", "environment", "on_tpu", "expected"), [
    (Place(), {}, False, None),
    (Place(), {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, False, None),  # a batch script
    (Place(), SLURM | {"SLURM_NTASKS": "1"}, False, None),
    (Place(), SLURM, False, Place(cluster="slurm")),
    (Place(coordinator="host:1"), SLURM, False, Place(coordinator="host:1", cluster="slurm")),
    (Place(), OMPI, False, Place(num_processes=2, process_id=1, cluster="ompi")),
    (Place(), OMPI | {"OMPI_COMM_WORLD_SIZE": "1"}, False, None),
    # mpirun's daemons on the nodes after the first are a step of srun.
    (Place(), SLURM | OMPI, False, Place(num_processes=2, process_id=1, cluster="ompi")),
    (Place(), KUBERNETES, False, Place(cluster="k8s")),
    # An interactive step of one task in an allocation of two.
    (Place(), SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, False, None),
    (Place(), SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "2"}, False,
     Place(cluster="slurm")),
    (Place(), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False, None),
    (Place(), {}, True, Place(cluster="tpu")),
    (Place(), KUBERNETES, True, Place(cluster="tpu")),
    (Place(num_processes=1), SLURM, True, None),  # alone, whatever has started it
    (ALL_FLAGS, SLURM, True, Place(coordinator="host:1", num_processes=3, process_id=2,
                                   cluster="flags")),
])
def test_a_process_finds_its_place(place, environment, on_tpu, expected):
    assert find_place(place, environment, on_tpu=on_tpu) == expected


@pytest.mark.parametrize(("place", "environment", "message"), [
    (Place(coordinator="host:1"), {}, "^num_processes, process_id missing"),
    (Place(num_processes=2, process_id=0), {}, "^coordinator missing"),
    (Place(coordinator="host", num_processes=2, process_id=0), {}, "'host'; expected HOST:PORT"),
    (Place(coordinator="host:1", num_processes=2, process_id=2), {}, "is 2; expected 0 to 1"),
    (Place(num_processes=1, process_id=1), {}, "is 1; expected 0, since"),
    (Place(num_processes=4), OMPI, "^num_processes is 4, and Open MPI says 2"),
])
def test_flags_that_name_no_place_are_refused(place, environment, message):
    with pytest.raises(InputError, match=message):
        find_place(place, environment, on_tpu=False)

import copy
import math

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

from tests.cli import command


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((command.ROOT / "launch" / "gke_jobset.yaml").read_text())


@pytest.fixture(scope="module")
def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1  # slices: with more of them main.py would need multislice
    return replicated["template"]["spec"]


@pytest.fixture(scope="module")
def pod(job):
    return job["template"]["spec"]


def test_is_what_the_api_of_jobset_and_kubernetes_takes(jobset):
    """As generated from their OpenAPI: a wrong type raises, and an unknown field is lost."""
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert JobsetV1alpha2JobSet.from_dict(copy.deepcopy(jobset)).to_dict() == jobset


def test_has_a_pod_for_each_host_of_the_slice(job, pod):
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    assert chips == 4  # of a ct5lp-hightpu-4t
    assert job["completions"] * chips == math.prod(map(int, topology.split("x")))
    assert job["parallelism"] == job["completions"] > 1
    assert job["completionMode"] == "Indexed"


def test_starts_again_after_signals_and_not_after_errors(jobset, job, pod):
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert rule["onExitCodes"]["operator"] == "In"
    final = rule["onExitCodes"]["values"]
    assert final == sorted(set(final))  # as the API wants it
    assert 1 in final
    assert not {75, 85, 134, 137, 138, 143} & set(final)
    # One pod's end ends all, and Never is what a podFailurePolicy needs.
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["terminationGracePeriodSeconds"] >= 120


def test_runs_main_with_its_files_on_the_volume(pod):
    (container,) = pod["containers"]
    assert container["command"] == ["python", "main.py"]  # no shell, which would keep the signals
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    assert (command.ROOT / flags["config"].removesuffix(":native")).is_file()
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    for flag in ("workdir", "config.data.train", "config.data.valid", "config.data.test",
                 "config.data.cache_dir"):
        assert flags[flag].startswith(f"{mount['mountPath']}/"), flag
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["JAX_COMPILATION_CACHE_DIR"].startswith(f"{mount['mountPath']}/")

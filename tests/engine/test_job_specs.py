"""Jobs for batch systems and clouds, each held against its tool's schema, fields or behaviour."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from factory.recipe.file import load_recipe
from tests import ROOT
from tests.commands import read_options

JOBS = ROOT / "jobs"
SLURM = JOBS / "slurm.sbatch"

RAY_JOB = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "clusterSelector",
    "deletionStrategy",
    "entrypoint",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "managedBy",
    "metadata",
    "preRunningDeadlineSeconds",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "suspend",
    "ttlSecondsAfterFinished",
}
"""Fields of RayJobSpec, ray.io/v1 (KubeRay API reference)."""
RAY_CLUSTER = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "managedBy",
    "rayVersion",
    "suspend",
    "upgradeStrategy",
    "workerGroupSpecs",
}
HEAD = {"enableIngress", "headService", "rayStartParams", "resources", "serviceType", "template"}
WORKERS = {
    "groupName",
    "idleTimeoutSeconds",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "rayStartParams",
    "replicas",
    "resources",
    "scaleStrategy",
    "suspend",
    "template",
}
POD = {"containers", "nodeSelector", "terminationGracePeriodSeconds", "tolerations", "volumes"}
CONTAINER = {"name", "image", "envFrom", "resources", "volumeMounts"}
SKY = {
    "name",
    "workdir",
    "num_nodes",
    "resources",
    "envs",
    "secrets",
    "volumes",
    "file_mounts",
    "setup",
    "run",
    "config",
}
"""Fields of a SkyPilot task, and of its resources (SkyPilot YAML reference)."""
SKY_RESOURCES = {
    "infra",
    "accelerators",
    "accelerator_args",
    "cpus",
    "memory",
    "instance_type",
    "use_spot",
    "disk_size",
    "disk_tier",
    "network_tier",
    "image_id",
    "ports",
    "labels",
    "autostop",
    "any_of",
    "ordered",
    "job_recovery",
}
SBATCH = {
    "job-name",
    "nodes",
    "ntasks-per-node",
    "cpus-per-task",
    "gpus-per-node",
    "mem",
    "time",
    "signal",
    "requeue",
    "open-mode",
    "output",
    "partition",
}
"""Options of sbatch (sbatch manual)."""


def read(name):
    return yaml.safe_load((JOBS / name).read_text())


def list_commands(text):
    """Every `factory ...` that the head of a file tells to run, as words."""
    text = re.sub(r"\\\n#", "", text)
    found = re.findall(r"^#   (?:[A-Z_]+=\S+ )?factory (.*)$", text, re.MULTILINE)
    return [shlex.split(each) for each in found]


@pytest.mark.parametrize("name", ["ray-aws.yaml", "ray-on-premise.yaml"])
def test_clusters_fit_the_schema_of_rays_launcher(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(name))
    validate_config(config)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    for line in starts:
        subprocess.run(["bash", "-n", "-c", line], check=True)
    broken = {**config, "worker_start_ray_command": []}
    with pytest.raises(Exception, match="worker_start_ray_command"):
        validate_config(broken)


def test_the_ray_job_has_fields_that_kuberay_knows():
    job = read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert set(spec) <= RAY_JOB
    assert set(cluster) <= RAY_CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert set(groups[0]) <= HEAD
    assert all(set(group) <= WORKERS for group in groups[1:])
    for group in groups:
        assert all(isinstance(each, str) for each in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert set(pod) <= POD
        [container] = pod["containers"]
        assert set(container) <= CONTAINER
        amounts = container["resources"].values()
        assert all(isinstance(each, str) for part in amounts for each in part.values())
        assert {each["name"] for each in container["volumeMounts"]} == {
            each["name"] for each in pod["volumes"]
        }
    words = shlex.split(spec["entrypoint"])
    assert words[:4] == ["python", "-m", "factory", "run"]
    assert words[4].startswith(groups[0]["template"]["spec"]["containers"][0]["volumeMounts"][0][
        "mountPath"
    ])  # fmt: skip
    read_options(words[3:])


def test_the_sky_task_has_fields_that_skypilot_knows():
    task = read("sky.yaml")
    assert set(task) <= SKY and set(task["resources"]) <= SKY_RESOURCES
    assert task["envs"]["OUT"] is None  # SkyPilot asks for it
    load_recipe(ROOT / task["envs"]["RECIPE"])
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n", "-c", task[part]], check=True)
    assert set(re.findall(r"\$([A-Z]+)", task["run"])) <= set(task["envs"])


def test_the_image_is_built_of_what_is_there():
    lines = re.sub(r"\\\n", " ", (JOBS / "Containerfile").read_text()).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert steps[0] == ["FROM", "python:3.11-slim"]
    assert {name for name, _ in steps} <= {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    for name, rest in steps:
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)
    extras = re.search(r"\.\[([a-z0-9,]+)\]", "".join(rest for _, rest in steps))
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in extras[1].split(","))
    users = [rest for name, rest in steps if name == "USER"]
    assert users and users[-1] != "root"


@pytest.mark.parametrize("path", sorted(JOBS.iterdir()), ids=lambda path: path.name)
def test_every_job_says_how_it_is_launched(path):
    text = path.read_text()
    if path.suffix in (".md", ".sh") or path.name == "job.yaml":
        return
    head = text.split("\n\n")[0].partition("apiVersion")[0]
    assert f"jobs/{path.name}" in head
    for words in list_commands(head):
        read_options(words)


# --- Slurm ---------------------------------------------------------------------------------------


def test_options_of_slurm_are_those_of_sbatch():
    lines = [each for each in SLURM.read_text().splitlines() if each.startswith("#SBATCH")]
    options = [re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", line) for line in lines]
    assert options and all(options)
    assert {each[1] for each in options} <= SBATCH
    values = {each[1]: (each[2] or "")[1:] for each in options}
    assert values["signal"] == "B:TERM@120"
    assert "requeue" in values


@pytest.fixture
def slurm(tmp_path):
    """Stand-ins of Slurm's commands and of factory's, which note how they are called."""
    stands = {
        "factory": 'trap "exit ${STOPPED:-3}" TERM; touch "$LOG.begun"; '
        "for i in {1..200}; do sleep 0.05; [[ -z ${ENDS:-} ]] || exit $ENDS; done",
        "scontrol": '[[ $1 != show ]] || printf "one\\ntwo\\n"',
        "srun": 'case "$*" in *hostname*) echo 127.0.0.1 ;; '
        '*--head*) exec python - "$@" <<<"$SERVE" ;; *) exec sleep 30 ;; esac',
    }
    for name, body in stands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$LOG"\n{body}\n')
        path.chmod(0o755)
    serve = (
        "import re, socket, sys, time\n"
        "port = int(re.search(r'--port=(\\d+)', ' '.join(sys.argv))[1])\n"
        "server = socket.create_server(('127.0.0.1', port))\ntime.sleep(30)\n"
    )
    return {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SERVE": serve,
        "LOG": str(tmp_path / "log"), "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "[one,two]",
    }  # fmt: skip


def submit(environment, nodes=1, number=None, **variables):
    log = environment["LOG"]
    Path(f"{log}.begun").unlink(missing_ok=True)
    process = subprocess.Popen(
        ["bash", SLURM, "my recipe.yaml", "s3://bucket/run", "--extend"],
        env={**environment, "SLURM_JOB_NUM_NODES": str(nodes), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while number and not Path(f"{log}.begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if number:
        process.send_signal(number)
    code = process.wait(30)
    return code, Path(log).read_text().splitlines()


def test_a_preempted_slurm_job_is_drained_and_queued_again(slurm):
    code, calls = submit(slurm, number=signal.SIGTERM)
    asked = "factory run my recipe.yaml --out s3://bucket/run --executor ray --extend"
    assert (code, calls) == (3, [asked, "scontrol requeue 4711"])


def test_a_slurm_job_that_ended_is_not_queued_again(slurm):
    assert submit(slurm, ENDS="1")[0] == 1
    assert submit(slurm, ENDS="3")[0] == 3  # it broke: somebody has to look
    code, calls = submit(slurm, number=signal.SIGTERM, STOPPED="0")  # the last batches were enough
    assert code == 0
    assert not [line for line in calls if line.startswith("scontrol")]


def test_a_slurm_job_of_two_nodes_starts_a_ray_of_its_own(slurm):
    code, calls = submit(slurm, nodes=2, ENDS="0")
    assert code == 0
    head, other = (line for line in calls if "ray start" in line)  # in this order
    assert "--nodelist=one ray start --head" in head and "--node-ip-address=127.0.0.1" in head
    assert "--nodelist=two ray start" in other
    address = re.search(r"--address=(\S+)", other)[1]
    assert f"--port={address.rpartition(':')[2]} " in f"{head} "
    [run] = (line for line in calls if line.startswith("factory"))
    assert f"--executor ray --set workers.address={address} --extend" in run

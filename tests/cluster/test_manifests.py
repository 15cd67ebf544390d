"""Every file of cluster/ against the schema of what reads it, and against the project itself."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import botocore.session
import click
import pytest
import ray
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from ray_jobs.config import load_config
from ray_jobs.runtime import check_free_cpu
from ray_jobs.schema import JOB_CONFIGS, config_class
from tests.cluster.manifests import (
    CLUSTER,
    IMAGE_FOLDER,
    JOBS,
    KUBERAY,
    LAUNCHER,
    ROOT,
    entrypoint_words,
    kuberay_schema,
    launcher_schema,
    load,
    misspelt,
    problems,
)

SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
FREE_MAPS = ("metadata", "rayStartParams", "requests", "limits")
"""Maps whose keys no schema of KubeRay names; their keys are checked below."""


def by_name(path: Path) -> str:
    return path.name


def cluster_spec(path: Path) -> dict:
    spec = load(path)["spec"]
    return spec.get("rayClusterSpec", spec)


def pod_specs(path: Path) -> list[dict]:
    spec = cluster_spec(path)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_nothing_is_left_out():
    assert [path.name for path in LAUNCHER] == ["aws.yaml", "machines.yaml"]
    jobs = {path.stem.removeprefix("kuberay_") for path in JOBS}
    assert jobs == {"cache", "train", "tune", "evaluate_chapters", "evaluate_pairs"}
    assert {path.name for path in KUBERAY} - {path.name for path in JOBS} == {
        "kuberay_cluster.yaml"
    }


# The cluster launcher.


@pytest.mark.parametrize("path", LAUNCHER, ids=by_name)
def test_the_launcher_accepts_its_file_and_no_misspelt_key(path):
    manifest, schema = load(path), launcher_schema()
    assert not problems(manifest, schema)
    free = ("available_node_types", "file_mounts")
    for place, changed in misspelt(manifest, free):
        assert problems(changed, schema), f"{path.name}: misspelt {place} is not noticed"
    types = manifest.get("available_node_types", {})
    for name, kind in types.items():
        for place, changed in misspelt(kind, ("node_config", "resources")):
            document = {**manifest, "available_node_types": {**types, name: changed}}
            assert problems(document, schema), f"misspelt {name}.{place} is not noticed"


@pytest.mark.parametrize("path", LAUNCHER, ids=by_name)
def test_the_launcher_prepares_it(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # file mounts are relative to where `ray up` runs
    config = prepare_config(load(path))
    validate_config(config)
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert load(path)["provider"]["type"] != "aws" or set(types) == {"head", "gpu"}
    for kind in types.values():
        assert set(kind["resources"]) <= {"CPU", "GPU", "memory"}
    for remote, local in load(path)["file_mounts"].items():
        assert remote.startswith("~/")
        assert local == "~/.ray/auth_token" or (ROOT / local).is_file()


def test_amazon_knows_every_key_of_its_nodes():
    manifest = load(CLUSTER / "aws.yaml")
    service = botocore.session.get_session().get_service_model("ec2")
    run = service.operation_model("RunInstances").input_shape
    for kind in manifest["available_node_types"].values():
        request = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, run).has_errors()
        misspelt_ebs = {**request, "BlockDeviceMappings": [{"Ebs": {"VolumSize": 1}}]}
        assert ParamValidator().validate(misspelt_ebs, run).has_errors()
        assert kind["node_config"]["SecurityGroupIds"]  # Ray's own would open SSH to everybody


# KubeRay.


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_kuberay_accepts_its_file_and_no_misspelt_key(path):
    manifest = load(path)
    schema = kuberay_schema(manifest["kind"])
    assert not problems(manifest, schema)
    places = []
    for place, changed in misspelt(manifest, FREE_MAPS):
        places.append(place)
        if place not in ("apiVersion", "kind"):  # the API server's own
            assert problems(changed, schema), f"{path.name}: misspelt {place} is not noticed"
    assert len(places) > 50


@pytest.mark.parametrize("path", KUBERAY, ids=by_name)
def test_what_kuberays_schema_leaves_open(path):
    manifest, spec = load(path), cluster_spec(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z0-9-]{1,47}", manifest["metadata"]["name"])
    assert set(manifest["metadata"]) == {"name"}
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    options = ray_start_options()
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= options
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pod_specs(path):
        (container,) = pod["containers"]
        resources = container["resources"]
        assert set(resources["limits"]) <= {"cpu", "memory", "nvidia.com/gpu"}
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        claimed = {mount["name"] for mount in container["volumeMounts"]}
        assert claimed == {volume["name"] for volume in pod["volumes"]} == {"shared", "shm"}
        # Ray keeps 30 % of a node's memory for objects, in /dev/shm.
        (shm,) = (volume for volume in pod["volumes"] if volume["name"] == "shm")
        memory = gibibytes(resources["limits"]["memory"])
        assert gibibytes(shm["emptyDir"]["sizeLimit"]) >= 0.3 * memory


def test_pods_are_the_same_in_all_files():
    heads = {yaml.safe_dump(pod_specs(path)[0]) for path in KUBERAY}
    workers = {yaml.safe_dump(pod) for path in KUBERAY for pod in pod_specs(path)[1:]}
    assert len(heads) == len(workers) == 1
    claim = load(CLUSTER / "kuberay_storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for path in KUBERAY:
        for pod in pod_specs(path):
            claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "shared"]
            assert claims == [{"claimName": claim["metadata"]["name"]}]


@pytest.mark.parametrize("path", JOBS, ids=by_name)
def test_a_ray_job_ends_and_is_tried_again_only_where_it_goes_on(path):
    spec = load(path)["spec"]
    assert spec["submissionMode"] in SUBMISSION_MODES
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}
    resumes = re.search(r"\$\(test -e (\S+)/config\.yaml && echo --resume\)", spec["entrypoint"])
    words = entrypoint_words(spec["entrypoint"])
    if "ray_jobs.cache_codes" in words:  # goes on by itself
        assert resumes is None
    else:
        assert resumes is not None
        # In the other modes a pod without the shared folder would ask whether the file is there.
        assert spec["submissionMode"] == "HTTPMode"
        assert {f"run={resumes[1]}", f"output={resumes[1]}"} & set(words)


@pytest.mark.parametrize("path", JOBS, ids=by_name)
def test_the_real_command_takes_the_words_of_a_ray_job(path, capsys):
    python, dash_m, module, *words = entrypoint_words(load(path)["spec"]["entrypoint"])
    assert (python, dash_m) == ("python", "-m")
    words = in_checkout(require_job(module, words))
    if module != "ray_jobs.cache_codes":
        words.append("--resume")
    assert importlib.import_module(module).main([*words, "--print-config"]) == 0
    assert all(word.split("=", 1)[1] in capsys.readouterr().out for word in words[-2:-1])


@pytest.mark.parametrize("path", JOBS, ids=by_name)
def test_a_ray_jobs_nodes_hold_its_workers_and_read_the_data(path):
    _, _, module, *words = entrypoint_words(load(path)["spec"]["entrypoint"])
    config = loaded(module, in_checkout(require_job(module, words)))
    (group,) = cluster_spec(path)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    nodes, cpus = group["minReplicas"], float(limits["cpu"])
    gpus = float(limits["nvidia.com/gpu"]) * nodes
    if module == "ray_jobs.cache_codes":
        assert gpus / config.workers.num_gpus >= 1
        return
    workers, each = config.cluster.num_workers, config.cluster.cpus_per_worker
    per_worker = getattr(config.cluster, "gpus_per_worker", None)
    needed = workers * (float(config.cluster.use_gpu) if per_worker is None else per_worker)
    assert 0 < needed <= gpus
    check_free_cpu([cpus] * nodes, workers, each)


# Slurm.


def test_the_slurm_script_is_a_script():
    path = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o111
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^#SBATCH --signal=B:TERM@\d+$", text, flags=re.MULTILINE)
    assert re.search(r"^#SBATCH --requeue$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", [*LAUNCHER, CLUSTER / "slurm.sh"], ids=by_name)
def test_ray_knows_the_options_that_start_it(path):
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    if path.suffix == ".yaml":
        manifest = load(path)
        lines = manifest["head_start_ray_commands"] + manifest["worker_start_ray_commands"]
        for line in lines:
            if "ray start" in line:
                assert "RAY_AUTH_MODE=token" in line
                parse_ray_start(line.rpartition("ray start")[2])
        text = "\n".join(lines)
    else:
        shared = " ".join(re.findall(r"^(?:resources|ports)=\((.*)\)$", text, flags=re.MULTILINE))
        for line in re.findall(r"ray start (.*)", text):
            own = re.sub(r'"\$\{(resources|ports)\[@\]\}"', "", line)
            parse_ray_start(re.sub(r"\$\(\(.*?\)\)|\$\{.*?\}|\$\w+", "7", f"{own} {shared}"))
        assert "export RAY_AUTH_MODE=token" in text
    heads = [line for line in text.splitlines() if "ray start --head" in line]
    assert heads
    assert all("--dashboard-host=127.0.0.1" in line for line in heads)


# The image.


def test_the_image_holds_what_the_manifests_name():
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    assert {"ttt", "ray_jobs", "configs"} <= {name for names in copied for name in names}
    assert f"WORKDIR {IMAGE_FOLDER}\n" in text
    installs = re.findall(r"pip install (.*)", text)
    assert installs
    assert all("--no-deps" in line for line in installs)
    assert any("-r requirements.lock" in line for line in installs)
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"\nray=={ray.__version__}\n" in locked
    assert "\nsetuptools==" in locked  # --no-build-isolation builds with it
    (uid,) = re.findall(r"useradd .*--uid (\d+)", text)
    (tag,) = re.findall(r"-t (\S+)", text)
    assert text.rstrip().endswith("USER ray")
    for path in KUBERAY:
        for pod in pod_specs(path):
            assert pod["securityContext"]["runAsUser"] == int(uid)
            assert [container["image"] for container in pod["containers"]] == [tag]
    assert load(CLUSTER / "aws.yaml")["docker"]["image"] == tag


# The guide.


def test_the_guide_names_files_that_exist_and_commands_that_parse():
    text = (CLUSTER / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:kuberay_\w+|aws|machines)\.yaml|slurm\.sh)`", text):
        assert (CLUSTER / name).is_file()
    for name in re.findall(r"`?((?:cluster|configs|docs)/[\w.]+\.\w+)", text):
        assert (ROOT / name).is_file(), name
    named = set(re.findall(r"`(\w+\.(?:yaml|sh))`", text))
    assert {path.name for path in (*LAUNCHER, *KUBERAY)} <= named
    joined = text.replace("\\\n", " ")
    submitted = re.findall(r"^python -m ray_jobs\.submit (\w+) (.*)$", joined, flags=re.MULTILINE)
    submitted += re.findall(r"^make submit JOB=(\w+) ARGS='(.*)'$", joined, flags=re.MULTILINE)
    assert len(submitted) == 2
    for job, words in submitted:
        loaded(f"ray_jobs.{job}", shlex.split(words))


def require_job(module: str, words: list[str]) -> list[str]:
    """The words, or a skip while the job is still being built."""
    if module.removeprefix("ray_jobs.") not in JOB_CONFIGS:
        pytest.skip(f"{module} is not in this project yet")
    return words


def in_checkout(words: list[str]) -> list[str]:
    return [word.replace(IMAGE_FOLDER, str(ROOT)) for word in words]


def loaded(module: str, words: list[str]):
    """The configuration that a command's words give."""
    path = words[words.index("--config") + 1]
    overrides = [word for word in words if "=" in word]
    return load_config(config_class(module.removeprefix("ray_jobs.")), ROOT / path, overrides)


def gibibytes(text: str) -> float:
    assert text.endswith("Gi")
    return float(text.removesuffix("Gi"))


def ray_start_options() -> set[str]:
    return {option for parameter in start.params for option in parameter.opts}


def parse_ray_start(words: str) -> None:
    """Raises click's error for an option that `ray start` does not know."""
    command = start.make_parser(click.Context(start))
    values, rest, _ = command.parse_args(shlex.split(words))
    assert not rest
    assert "head" in values or "address" in values

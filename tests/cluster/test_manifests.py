"""Every file of cluster/ against the schema of what reads it, and against the project itself."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import ray
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_command
from ray.scripts.scripts import start

from ray_jobs.config.load import load_config
from ray_jobs.config.schema import JOB_CONFIGS, config_class
from ray_jobs.runtime.connection import check_free_cpu
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
    pod_schema,
    problems,
)

SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
GUIDES = (CLUSTER / "README.md", ROOT / "README.md")
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
        assert kind["node_config"]["ImageId"]  # Ray's own is of 2023
    mount, owner = manifest["initialization_commands"][-2:]
    assert mount.endswith(":/ /shared")
    assert owner == "sudo chown 1000:1000 /shared"  # the image's user


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
    words = entrypoint_words(spec["entrypoint"])
    by_itself = "ray_jobs.cache_codes" in words
    assert ("--resume-if-begun" in words) != by_itself


@pytest.mark.parametrize("path", JOBS, ids=by_name)
def test_the_real_command_takes_the_words_of_a_ray_job(path, capsys):
    python, dash_m, module, *words = entrypoint_words(load(path)["spec"]["entrypoint"])
    assert (python, dash_m) == ("python", "-m")
    words = in_checkout(require_job(module, words))
    assert importlib.import_module(module).main([*words, "--print-config"]) == 0
    (folder,) = (word for word in words if word.startswith(("run=", "output=")))
    assert f"\n{folder.replace('=', ': ')}\n" in capsys.readouterr().out


@pytest.mark.parametrize("path", JOBS, ids=by_name)
def test_a_ray_jobs_nodes_hold_its_workers_and_read_the_data(path):
    _, _, module, *words = entrypoint_words(load(path)["spec"]["entrypoint"])
    config = loaded(module, in_checkout(require_job(module, words)))
    (group,) = cluster_spec(path)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    nodes, cpus = group["minReplicas"], float(limits["cpu"])
    gpus = float(limits["nvidia.com/gpu"]) * nodes
    if module == "ray_jobs.cache_codes":
        assert gpus / config.cluster.gpus_per_worker >= 1
        return
    require_held(config, nodes, cpus, gpus)


def test_nodes_that_are_always_up_hold_the_commands_of_both_guides():
    gpu = load(CLUSTER / "aws.yaml")["available_node_types"]["gpu"]
    (group,) = cluster_spec(CLUSTER / "kuberay_cluster.yaml")["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    clusters = [
        (gpu["min_workers"], gpu["resources"]["CPU"], gpu["resources"]["GPU"]),
        (group["minReplicas"], float(limits["cpu"]), float(limits["nvidia.com/gpu"])),
    ]
    shown = [words for page in GUIDES for job, words in submitted(page) if job == "train_decoder"]
    assert len(shown) == 3
    for words in shown:
        for nodes, cpus, gpus in clusters:
            require_held(loaded("ray_jobs.train_decoder", words), nodes, cpus, gpus * nodes)


def test_the_pod_for_files_gives_the_shared_folder_to_the_images_user():
    manifest = load(CLUSTER / "kuberay_files.yaml")
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    pod, schema = manifest["spec"], pod_schema()
    assert not problems(pod, schema)
    for place, changed in misspelt(pod, ("requests",)):
        assert problems(changed, schema), f"misspelt {place} is not noticed"
    assert pod["volumes"] == pod_specs(CLUSTER / "kuberay_cluster.yaml")[0]["volumes"][:1]
    (owner,), (files,) = pod["initContainers"], pod["containers"]
    user = files["securityContext"]["runAsUser"]
    for container in (owner, files):
        assert container["image"] == load(CLUSTER / "aws.yaml")["docker"]["image"]
        (mount,) = container["volumeMounts"]
        assert mount["mountPath"] == "/shared"
    assert owner["command"] == ["chown", f"{user}:{user}", "/shared"]
    assert user == pod_specs(CLUSTER / "kuberay_cluster.yaml")[0]["securityContext"]["runAsUser"]


def require_held(config: Any, nodes: int, cpus: float, gpus: float) -> None:
    """Fails unless so many nodes of `cpus` hold the workers, with a CPU left to read the data."""
    workers, each = config.cluster.num_workers, config.cluster.cpus_per_worker
    needed = workers * config.cluster.gpus_per_worker
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
                values = parse_ray_start(line.rpartition("ray start")[2])
                if "head" in values and "resources" not in head_type(manifest):
                    assert (values["num_cpus"], values["num_gpus"]) == ("0", "0")
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
    # The launcher takes HOME from here (else /root), and its head starts ssh and rsync in here.
    assert re.findall(r"^ENV HOME=(\S+)$", text, flags=re.MULTILINE) == ["/home/ray"]
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends (.*) \\", text)
    assert {"openssh-client", "rsync", "wget"} <= set(packages.split())
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
    shown = submitted(CLUSTER / "README.md")
    assert len(shown) == 2
    for job, words in shown:
        loaded(f"ray_jobs.{job}", words)
    commands = re.findall(r"^ray (\S+) (.*?)(?: +#.*)?$", text, flags=re.MULTILINE)
    assert {"up", "attach", "rsync-up", "rsync-down"} <= {name for name, _ in commands}
    for name, words in commands:
        ray_command.commands[name].make_context(name, shlex.split(words))


@pytest.mark.parametrize("page", GUIDES, ids=["cluster/README.md", "README.md"])
def test_who_submits_has_the_token_and_says_so(page):
    """Without RAY_AUTH_MODE, `ray job submit` sends no token: 401."""
    exports = re.findall(r"^export (.*?)(?: +#.*)?$", page.read_text("utf-8"), flags=re.MULTILINE)
    assert exports == ["RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.ray/auth_token"]


def test_the_token_is_made_for_its_owner_alone_and_made_anew(tmp_path):
    pages = [(CLUSTER / "README.md").read_text("utf-8"), (ROOT / "docs/security.md").read_text()]
    (first,) = re.findall(r"^(.*ray get-auth-token.*)$", pages[0], flags=re.MULTILINE)
    (anew,) = re.findall(
        r"```bash\n(.*?)```", pages[1].split("Make a new one")[1].split("5.")[0], re.S
    )
    steps = [line.strip() for line in anew.strip().splitlines()]
    assert [steps[0], steps[-1]] == [f"ray {verb} cluster/machines.yaml" for verb in ("down", "up")]
    file = tmp_path / ".ray" / "auth_token"
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "RAY_AUTH_TOKEN_PATH": str(file),  # of the shell that has submitted before
    }
    tokens = []
    for script in (first, "\n".join(steps[1:-1])):
        command = ["bash", "-ec", script]
        assert not subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL)
        assert file.stat().st_mode & 0o077 == 0
        tokens.append(file.read_text())
    assert tokens[0] != tokens[1]


def require_job(module: str, words: list[str]) -> list[str]:
    """The words, or a skip while the job is still being built."""
    if module.removeprefix("ray_jobs.") not in JOB_CONFIGS:
        pytest.skip(f"{module} is not in this project yet")
    return words


def submitted(page: Path) -> list[tuple[str, list[str]]]:
    """The jobs that a page's commands submit, with their words."""
    joined = page.read_text(encoding="utf-8").replace("\\\n", " ")
    by_us = re.findall(r"^python -m ray_jobs\.submit (\w+) (.*)$", joined, flags=re.MULTILINE)
    by_us += re.findall(r"^make submit JOB=(\w+) ARGS='(.*)'$", joined, flags=re.MULTILINE)
    by_hand = re.findall(
        r"^ray job submit .*-- python -m ray_jobs\.(\w+) (.*)$", joined, re.MULTILINE
    )
    return [(job, shlex.split(words)) for job, words in (*by_us, *by_hand)]


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


def parse_ray_start(words: str) -> dict[str, Any]:
    """Its options; raises click's error for one that `ray start` does not know."""
    command = start.make_parser(click.Context(start))
    values, rest, _ = command.parse_args(shlex.split(words))
    assert not rest
    assert "head" in values or "address" in values
    return values


def head_type(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the launcher's file says of its head; what says nothing computes with all it has."""
    kind = manifest.get("available_node_types", {}).get(manifest.get("head_node_type"), {})
    assert kind.get("resources", {"CPU": 0}) == {"CPU": 0}
    return kind

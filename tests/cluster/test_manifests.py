"""Every file of cluster/ against the schema of what reads it, and against the project itself."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_command
from ray.scripts.scripts import start

from tests.cluster.manifests import (
    CLUSTER,
    KUBERAY,
    LAUNCHER,
    ROOT,
    by_name,
    cluster_spec,
    launcher_schema,
    load,
    loaded,
    misspelt,
    problems,
    ray_resource,
    require_held,
    submitted,
)

GUIDES = (CLUSTER / "README.md", ROOT / "README.md")


def test_nothing_is_left_out():
    assert [path.name for path in LAUNCHER] == ["aws.yaml", "machines.yaml"]
    files = {path.name for path in CLUSTER.iterdir() if path.is_file()}
    assert files == {path.name for path in LAUNCHER} | {
        *("Dockerfile", "Dockerfile.dockerignore", "README.md", "runtime_env.yaml", "slurm.sh")
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


def test_nodes_that_are_always_up_hold_the_commands_of_both_guides():
    gpu = load(CLUSTER / "aws.yaml")["available_node_types"]["gpu"]
    (group,) = cluster_spec(ray_resource(KUBERAY / "cluster"))["workerGroupSpecs"]
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


# The guide.


def test_the_guide_names_files_that_exist_and_commands_that_parse():
    text = (CLUSTER / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.(?:yaml|sh)|kuberay/[\w./]+)`", text))
    for name in named - {"train_default.yaml"}:
        assert (CLUSTER / name).exists() or (KUBERAY / "settings" / name).exists(), name
    for name in re.findall(r"(?:cluster|configs|docs)/[\w./]+\w", text):
        assert (ROOT / name).exists(), name
    assert {*(path.name for path in LAUNCHER), "slurm.sh"} <= named
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

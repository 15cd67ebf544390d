"""What cluster/README.md tells somebody with only kubectl, and with one large server."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import yaml

from ray_jobs.config.schema import JOB_CONFIGS
from tests.cluster.manifests import (
    CLUSTER,
    KUBERAY,
    OVERLAYS,
    RAY_JOBS,
    SETTINGS,
    kubectl,
    load,
    loaded,
    needs_kubectl,
    pod_specs,
    ray_resource,
    require_held,
)
from ttt.errors import UserError

LOCAL = KUBERAY / "local"


def guide() -> str:
    return (CLUSTER / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")


def test_the_guide_applies_what_exists_and_names_every_job():
    text = guide()
    applied = set(re.findall(r"^kubectl apply -k cluster/kuberay/(\S+)", text, flags=re.MULTILINE))
    assert {"files", "cluster", "local"} < applied
    assert {KUBERAY / name for name in applied} <= set(OVERLAYS)
    files = re.findall(r"^kubectl apply -f (\S+)", text, flags=re.MULTILINE)
    assert [CLUSTER.parent / name for name in files] == [KUBERAY / "network.yaml"]
    (order,) = re.findall(r"(\| jobs \| in this order \|.*?)\n\n", text, flags=re.DOTALL)
    assert set(re.findall(r"`(\w+)`", order)) == set(JOB_CONFIGS)
    names = set(re.findall(r"rayjob[ /](ttt-[a-z-]+)", text))
    assert names <= {ray_resource(overlay)["metadata"]["name"] for overlay in RAY_JOBS}
    assert set(re.findall(r"namespace=(\S+)", text)) == {SETTINGS["namespace"], "default"}
    built = re.findall(r"^docker build .* -t (\S+) \.$", text, flags=re.MULTILINE)
    local = load(LOCAL / "settings.yaml")
    assert built == [SETTINGS["image"], local["image"]]
    assert f"kind load docker-image {local['image']}" in text
    assert f"create namespace {local['namespace']}" in text
    installed = re.findall(r"kuberay/ray-operator/config/default\?ref=v([\d.]+)", text)
    installed += re.findall(r"kuberay-operator.*?--version ([\d.]+)", text, flags=re.DOTALL)
    assert len(installed) == 3
    assert len(set(installed)) == 1
    assert tuple(map(int, installed[0].split("."))) >= (1, 5, 1)  # authOptions


def test_the_guide_tries_a_job_by_the_words_that_it_gets():
    """In the pod for files, which has the image and the shared folder and no GPU."""
    (tried,) = re.findall(
        r"^kubectl exec ttt-files -- (python .*) --dry-run$", guide(), re.MULTILINE
    )
    entrypoint = ray_resource(KUBERAY / "jobs" / "cache_codes")["spec"]["entrypoint"]
    assert shlex.split(tried) == shlex.split(entrypoint)


@needs_kubectl
def test_the_guides_secrets_are_those_that_pods_ask_for(tmp_path):
    for name in (".docker/config.json", ".cache/huggingface/token"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    made = {}
    for line in re.findall(r"^kubectl (create (?:secret|namespace) .*)$", guide(), re.MULTILINE):
        words = [word.replace("$HOME", str(tmp_path)) for word in shlex.split(line)]
        output = subprocess.check_output(
            [str(kubectl), *words, "--dry-run=client", "--output=yaml"],
            env={"HOME": str(tmp_path), "PATH": "/bin"},
        )
        sent = yaml.safe_load(output)
        made[sent["kind"], sent["metadata"]["name"]] = sent.get("data")
    assert ("Namespace", SETTINGS["namespace"]) in made
    (registry,) = SETTINGS["imagePullSecrets"]
    assert set(made["Secret", registry["name"]]) == {".dockerconfigjson"}
    (container,) = pod_specs(ray_resource(KUBERAY / "cluster"))[0]["containers"]
    asked = container["env"][1]["valueFrom"]["secretKeyRef"]
    assert asked["key"] in made["Secret", asked["name"]]


def test_the_guides_large_server_holds_its_job():
    """The one command without Docker and the one with it: 8 GPUs and 32 CPUs are enough."""
    found = re.findall(
        r"^(?:docker run .* )?python -m (ray_jobs\.\w+) (.*)$", guide(), re.MULTILINE
    )
    commands = [(module, shlex.split(words)) for module, words in found if "submit" not in module]
    modules = [module for module, _ in commands]
    assert modules == ["ray_jobs.cache_chapters", *["ray_jobs.train_decoder"] * 2]
    assert loaded(*commands[0]).synthetic.chapters == 8  # what tries the image
    for module, words in commands[1:]:
        config = loaded(module, words)
        require_held(config, nodes=1, cpus=32, gpus=8)
        require_held(config, nodes=1, cpus=17, gpus=8)  # what the guide says is needed
        with pytest.raises(UserError, match="no whole CPU"):
            require_held(config, nodes=1, cpus=16, gpus=8)

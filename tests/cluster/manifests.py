"""The files of cluster/, and the strict schemas they are held against."""

from __future__ import annotations

import copy
import functools
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from ray_jobs.config.load import load_config
from ray_jobs.config.schema import config_class
from ray_jobs.runtime.connection import check_free_cpu
from tests.cluster.kustomize import Resource, build

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
IMAGE_FOLDER = "/opt/ttt-speech"
"""Where cluster/Dockerfile puts the checkout."""

LAUNCHER = sorted(
    path for path in CLUSTER.glob("*.yaml") if "cluster_name:" in path.read_text(encoding="utf-8")
)
KUBERAY = CLUSTER / "kuberay"
JOBS = sorted((KUBERAY / "jobs").iterdir())
OVERLAYS = [KUBERAY / "cluster", KUBERAY / "files", KUBERAY / "local", *JOBS]
"""What `kubectl apply -k` takes."""
RAY_JOBS = [KUBERAY / "local", *JOBS]
SETTINGS: Resource = yaml.safe_load((KUBERAY / "settings" / "settings.yaml").read_text("utf-8"))

kubectl = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(kubectl is None, reason="kubectl is not installed")


def by_name(path: Path) -> str:
    """A test's name for a file or folder."""
    return path.name


@functools.cache
def rendered(overlay: Path) -> list[Resource]:
    """The resources that `kubectl apply -k` would send. Not to be changed."""
    return build(overlay)


def resource(overlay: Path, kind: str) -> Resource:
    """The only resource of a kind."""
    (found,) = (each for each in rendered(overlay) if each["kind"] == kind)
    return found


def ray_resource(overlay: Path) -> Resource:
    """The RayJob or RayCluster of an overlay."""
    (found,) = (each for each in rendered(overlay) if each["apiVersion"] == "ray.io/v1")
    return found


def cluster_spec(document: Resource) -> Resource:
    """The cluster that a RayCluster or a RayJob describes."""
    return document["spec"].get("rayClusterSpec", document["spec"])


def pod_specs(document: Resource) -> list[Resource]:
    """The pods of it, the head's first."""
    spec = cluster_spec(document)
    groups = [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]
    return [group["template"]["spec"] for group in groups]


def load(path: Path) -> dict[str, Any]:
    """A manifest."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


Schema = jsonschema.Draft202012Validator


@functools.cache
def launcher_schema() -> Schema:
    """What Ray itself checks before `ray up`, with unknown keys of `provider` refused too."""
    path = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    schema["properties"]["provider"]["additionalProperties"] = False
    return Schema(schema)


@functools.cache
def kuberay_schema(kind: str) -> Schema:
    """KubeRay's schema of a resource, with unknown keys refused at every depth."""
    path = ROOT.parent / "shared" / "golden" / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip("KubeRay's resource definitions (../shared/golden/kuberay) are not here")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return Schema(_strict(version["schema"]["openAPIV3Schema"]))


def pod_schema() -> Schema:
    """The schema of a pod's spec, as KubeRay has it for the pods of a cluster."""
    spec = kuberay_schema("RayCluster").schema["properties"]["spec"]["properties"]
    template = spec["headGroupSpec"]["properties"]["template"]["properties"]
    return Schema(template["spec"])


def problems(document: Any, schema: Schema) -> list[str]:
    """What the schema finds wrong, with places."""
    return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(document)]


def misspelt(document: Any, free_maps: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The document with one key misspelt, once for every key at any depth: (place, document).

    Args:
        free_maps: keys of maps whose own keys may be anything.
    """
    for place in _places(document):
        if set(place[:-1]) & set(free_maps):
            continue
        changed = copy.deepcopy(document)
        node = changed
        for step in place[:-1]:
            node = node[step]
        node[f"{place[-1]}_"] = node.pop(place[-1])
        yield ".".join(map(str, place)), changed


def entrypoint_words(entrypoint: str) -> list[str]:
    """The words of a manifest's command, in which its shell sees nothing to do."""
    assert not set("$`;|&<>") & set(entrypoint), f"the shell would act on {entrypoint}"
    return shlex.split(entrypoint)


def submitted(page: Path) -> list[tuple[str, list[str]]]:
    """The jobs that a page's commands submit, with their words."""
    joined = page.read_text(encoding="utf-8").replace("\\\n", " ")
    by_us = re.findall(r"^python -m ray_jobs\.submit (\w+) (.*)$", joined, flags=re.MULTILINE)
    by_us += re.findall(r"^make submit JOB=(\w+) ARGS='(.*)'$", joined, flags=re.MULTILINE)
    by_hand = re.findall(
        r"^ray job submit .*-- python -m ray_jobs\.(\w+) (.*)$", joined, re.MULTILINE
    )
    return [(job, shlex.split(words)) for job, words in (*by_us, *by_hand)]


def loaded(module: str, words: Sequence[str]) -> Any:
    """The configuration that a command's words give."""
    path = words[words.index("--config") + 1].replace(IMAGE_FOLDER, str(ROOT))
    overrides = [word for word in words if "=" in word]
    return load_config(config_class(module.removeprefix("ray_jobs.")), ROOT / path, overrides)


def require_held(config: Any, nodes: int, cpus: float, gpus: float) -> None:
    """Fails unless so many nodes of `cpus` hold the workers, with a CPU left to read the data."""
    workers, each = config.cluster.num_workers, config.cluster.cpus_per_worker
    needed = workers * config.cluster.gpus_per_worker
    assert 0 < needed <= gpus
    check_free_cpu([cpus] * nodes, workers, each)


def gibibytes(text: str) -> float:
    """Of a quantity of Kubernetes in Gi."""
    assert text.endswith("Gi")
    return float(text.removesuffix("Gi"))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if (
        "properties" in schema
        and isinstance(schema["properties"], dict)
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        strict["additionalProperties"] = False
    return strict


def _places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*above, key)
            yield from _places(value, (*above, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _places(value, (*above, index))

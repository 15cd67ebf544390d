"""The files of cluster/, and the strict schemas they are held against."""

from __future__ import annotations

import copy
import functools
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
IMAGE_FOLDER = "/opt/ttt-speech"
"""Where cluster/Dockerfile puts the checkout."""

LAUNCHER = sorted(
    path for path in CLUSTER.glob("*.yaml") if "cluster_name:" in path.read_text(encoding="utf-8")
)
KUBERAY = sorted(
    path for path in CLUSTER.glob("kuberay_*.yaml") if "ray.io/v1" in path.read_text("utf-8")
)
JOBS = [path for path in KUBERAY if "kind: RayJob" in path.read_text(encoding="utf-8")]


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

"""The part of kustomize that cluster/kuberay uses, for machines without kubectl.

`build(folder)` gives what `kubectl kustomize FOLDER` prints; a test compares the two where kubectl
is installed. It is stricter: it raises BuildError for a key that it does not know, for a patch
without a resource, and where what is to be replaced is not there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
LOCAL = "config.kubernetes.io/local-config"
KEYS = {
    "Kustomization": {"apiVersion", "kind", "resources", "components", "patches"},
    "Component": {"apiVersion", "kind", "resources", "components", "patches", "replacements"},
}


class BuildError(ValueError):
    """A kustomization cannot be built."""


def build(folder: Path) -> list[Resource]:
    """The resources of a kustomization, in the order in which it names them."""
    resources: list[Resource] = []
    _accumulate(folder, resources, "Kustomization")
    return resources


def _accumulate(folder: Path, resources: list[Resource], kind: str) -> None:
    """Adds to `resources` what the folder has, and changes them as it says."""
    path = folder / "kustomization.yaml"
    if not path.is_file():
        raise BuildError(f"{path}: not found")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if document.get("kind") != kind:
        raise BuildError(f"{path}: is no {kind}")
    if unknown := set(document) - KEYS[kind]:
        raise BuildError(f"{path}: unknown {sorted(unknown)}")
    for name in document.get("resources", []):
        _add(resources, *_read(folder, name))
    for name in document.get("components", []):
        _accumulate(folder / name, resources, "Component")
    for patch in document.get("patches", []):
        _patch(resources, patch, path)
    for replacement in document.get("replacements", []):
        _replace(resources, replacement, path)
    resources[:] = [each for each in resources if LOCAL not in _annotations(each)]


def _read(folder: Path, name: str) -> list[Resource]:
    if (folder / name).is_dir():
        return build(folder / name)
    if Path(name).parent != Path() or not (folder / name).is_file():
        raise BuildError(f"{folder}: no file {name} in it")  # kubectl reads none elsewhere
    return list(yaml.safe_load_all((folder / name).read_text(encoding="utf-8")))


def _add(resources: list[Resource], *new: Resource) -> None:
    for resource in new:
        if any(_identity(each) == _identity(resource) for each in resources):
            raise BuildError(f"{_identity(resource)} is there twice")
        resources.append(resource)


def _identity(resource: Resource) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


def _annotations(resource: Resource) -> Resource:
    return resource["metadata"].get("annotations", {})


def _patch(resources: list[Resource], patch: Resource, path: Path) -> None:
    """A JSON patch (RFC 6902) of all resources of a kind."""
    _require_keys(patch, {"target", "patch"}, path)
    targets = _selected(resources, patch["target"], path)
    if not targets:
        raise BuildError(f"{path}: {patch['target']} finds nothing")
    for operation in yaml.safe_load(patch["patch"]):
        verb, place = operation["op"], operation["path"]
        needed = {"op", "path"} if verb == "remove" else {"op", "path", "value"}
        _require_keys(operation, needed, path)
        *above, last = place.removeprefix("/").split("/")
        for target in targets:
            node: Any = target
            for step in above:
                node = _child(node, step, f"{path}: {place}")
            if not isinstance(node, dict) or verb not in ("add", "replace", "remove"):
                raise BuildError(f"{path}: {verb} {place} is not understood")
            if verb != "add":
                _child(node, last, f"{path}: {place}")
            if verb == "remove":
                del node[last]
            else:
                node[last] = copy.deepcopy(operation["value"])


def _child(node: Any, step: str, place: str) -> Any:
    try:
        return node[int(step) if isinstance(node, list) else step]
    except (KeyError, IndexError, ValueError, TypeError):
        raise BuildError(f"{place}: there is no {step}") from None


def _replace(resources: list[Resource], replacement: Resource, path: Path) -> None:
    """A value of one resource, copied into others."""
    _require_keys(replacement, {"source", "targets"}, path)
    source = replacement["source"]
    _require_keys(source, {"kind", "fieldPath"}, path)
    found = _selected(resources, {"kind": source["kind"]}, path)
    if len(found) != 1:
        raise BuildError(f"{path}: {len(found)} resources of kind {source['kind']}")
    value: Any = found[0]
    for step in source["fieldPath"].split("."):
        value = _child(value, step, f"{path}: {source['fieldPath']}")
    if value in ({}, [], None):
        raise BuildError(f"{path}: {source['fieldPath']} is empty, which kubectl refuses")
    for target in replacement["targets"]:
        options = target.get("options", {"create": False})
        _require_keys({**target, "options": options}, {"select", "fieldPaths", "options"}, path)
        _require_keys(options, {"create"}, path)
        for resource in _selected(resources, target["select"], path):
            for field in target["fieldPaths"]:
                place = f"{path}: {field}"
                changes = list(_slots(resource, field.split("."), options["create"], place))
                for change in changes:
                    change(copy.deepcopy(value))


def _slots(node: Any, steps: list[str], create: bool, place: str) -> Iterator[Callable]:
    """What sets each field that a path names, where `*` is every item of a list."""
    step, *rest = steps
    if step == "*":
        for item in node:
            yield from _slots(item, rest, create, place)
    elif rest:
        yield from _slots(_child(node, step, place), rest, create, place)
    else:
        if not create:
            _child(node, step, place)
        yield lambda value: node.__setitem__(step, value)


def _selected(resources: list[Resource], select: Resource, path: Path) -> list[Resource]:
    _require_keys(select, {"kind"}, path)
    return [each for each in resources if each["kind"] == select["kind"]]


def _require_keys(document: Resource, keys: set[str], path: Path) -> None:
    if set(document) != keys:
        raise BuildError(f"{path}: {sorted(document)} in place of {sorted(keys)}")

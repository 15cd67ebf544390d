"""YAML files as plain trees: reading, merging, setting a key, writing.

Scalars follow YAML 1.2, as editors do: `1e-4` is a number, `yes`, `on`, `12:30` and `2026-01-01`
are text. PyYAML alone follows 1.1, where the first is text and the others are not. A key given
twice is refused instead of the last one winning.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ttt.errors import UserError


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; --config takes the path of a YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    try:
        tree = parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {reason(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must hold keys and values, got {show(tree)}")
    return tree


def parse(text: str) -> Any:
    """One YAML document with text keys. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def compose(text: str) -> yaml.Node | None:
    """The nodes of one YAML document, with the tags that `construct` obeys. Raises YAMLError."""
    return yaml.compose(text, Loader=_Loader)


def construct(node: yaml.Node) -> Any:
    """What `parse` makes of the document of which this is the outermost node."""
    return _Loader("").construct_document(node)


def dump(tree: Any) -> str:
    """A tree as YAML that `parse` reads back to the same values."""
    return yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=98, line_break="\n"
    )


def show(value: Any) -> str:
    """A value in one short line, as a message quotes it."""
    if isinstance(value, str):
        text = repr(value)
    else:
        text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000).strip()
        text = text.removesuffix("\n...").strip()
    return text if len(text) <= 60 else text[:57] + "..."


def merge(base: dict[str, Any], extension: dict[str, Any]) -> dict[str, Any]:
    """`base` with `extension` laid over it: mappings merge key by key, all else is replaced."""
    merged = dict(base)
    for key, value in extension.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = merge(old, value)
        merged[key] = value
    return merged


def set_value(tree: dict[str, Any], key: str, value: Any) -> str | None:
    """Set a dotted key in `tree`, in place; the reason when that cannot be done."""
    parts = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parts):
        slot, problem = _slot(node, part, ".".join(parts[:depth]))
        if problem:
            return problem
        if depth == len(parts) - 1:
            node[slot] = value
            return None
        if isinstance(node, dict) and node.get(slot) is None:
            node[slot] = {}
        node = node[slot]
    return None


def reason(error: yaml.YAMLError) -> str:
    """What is wrong with a document, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


def _slot(node: Any, part: str, path: str) -> tuple[Any, str | None]:
    """Where `part` lies inside `node`, or why it cannot."""
    if isinstance(node, dict):
        return part, None
    if isinstance(node, list):
        if part.isdecimal() and int(part) < len(node):
            return int(part), None
        return None, f"{path} is a list of {len(node)}; {part} is not one of its places"
    return None, f"{path} is {show(node)}, which has no keys"


_SCALARS = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own class table

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        # An alias becomes a copy: an override of one place must not reach the other.
        self.constructed_objects.pop(node, None)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            # Keys stay text whatever they look like: the table of a schedule may begin with 1.
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key in mapping:
                what = "a key that is not text" if key not in mapping else f"{key} given twice"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        return int(node.value)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would read as something else than text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class table
        first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}",
            re.compile(f"^(?:{_pattern})$"),
            [char.strip("\0") for char in _first],
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_mapping)
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        # Elsewhere than in double quotes, whose escapes say what they were, breaks become spaces.
        "tag:yaml.org,2002:str",
        text,
        style='"' if re.search(r"[\n\r\x85\u2028\u2029]", text) else None,
    ),
)
_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq",
        items,
        flow_style=not any(isinstance(item, dict | list) for item in items),
    ),
)

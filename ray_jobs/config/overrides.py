"""The words `key.path=value` of a command line: what each sets in a configuration's tree.

The value of a text key is the text as it was typed: no character of it is YAML's. Any other value
is read as YAML, in which an item of text keeps its spelling, too (`data.speakers=[084, 12]`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from ray_jobs.config import yaml_tree
from ttt.config import Config

_GROUP_OF_OLD_KEYS = "paper_metrics."


def apply(config_class: type[Config], tree: dict[str, Any], text: str) -> str | None:
    """Set what the word `text` says in `tree`, in place; the problem's line when it cannot be."""
    key, equals, raw = text.partition("=")
    if not equals or not key or not all(key.split(".")):
        return f"{text}: not an override; write key.path=value"
    if not raw.strip():
        return f"{key}: no value given; write {key}=null to switch it off"
    try:
        value = _value(_kinds_of_key(config_class, key), raw)
    except yaml.YAMLError as error:
        return f"{key}: {raw!r} is not valid YAML: {yaml_tree.reason(error)}"
    except _LeftOver as error:
        return f"{key}: what follows {error} would be dropped as a comment; put text into quotes"
    problem = yaml_tree.set_value(tree, key, value)
    return f"{key}: {problem}" if problem else None


def options(kind: Any) -> tuple[Any, ...]:
    """The types that a value of type `kind` may have: those of a union, or itself."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


class _LeftOver(Exception):
    """YAML has read a beginning of the value, which is the argument, and dropped the rest."""


_Kinds = tuple[Any, ...]
"""The types that a value may have; none at all for a key that no field has."""


def _value(kinds: _Kinds, raw: str) -> Any:
    if not kinds:
        return raw  # Only the key is wrong: what is said about it must not be about its value.
    if _is_text(kinds):
        return None if raw == "null" and type(None) in kinds else _unescaped(raw)
    node = yaml_tree.compose(raw)
    if node is None:
        return None
    read, rest = raw[: node.end_mark.index], raw[node.end_mark.index :]
    if rest.strip():
        raise _LeftOver(read)
    _keep_text(node, kinds)
    return yaml_tree.construct(node)


def _unescaped(raw: str) -> str:
    """What a JSON string with escapes stands for; any other text, quotes included, as it is.

    Programs hand over line breaks and quotes so, as they could when every value was YAML.
    """
    if not (raw.startswith('"') and raw.endswith('"') and "\\" in raw):
        return raw
    try:
        text = json.loads(raw)
    except ValueError:
        return raw
    return text if isinstance(text, str) else raw


def _keep_text(node: yaml.Node, kinds: _Kinds) -> None:
    """Make what stands unquoted where text belongs a text, whatever YAML would take it for."""
    if isinstance(node, yaml.ScalarNode):
        is_null = node.value == "null" and type(None) in kinds
        if node.style is None and _is_text(kinds) and not is_null:
            node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _keep_text(item, _kinds_inside(kinds, str(index)))
    elif isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            _keep_text(item, _kinds_inside(kinds, str(key.value)))


def _kinds_of_key(config_class: type[Config], key: str) -> _Kinds:
    alias = getattr(config_class, "__aliases__", {}).get(key.removeprefix(_GROUP_OF_OLD_KEYS))
    if alias is not None:
        return (Any,) if alias.values is not None else _kinds_of_key(config_class, alias.key)
    kinds: _Kinds = (config_class,)
    for part in key.split("."):
        kinds = _kinds_inside(kinds, part)
    return kinds


def _kinds_inside(kinds: _Kinds, part: str) -> _Kinds:
    """What a value of one of `kinds` may hold at the key or place `part`."""
    for kind in kinds:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind is Any:
            return (Any,)
        if isinstance(kind, type) and issubclass(kind, Config):
            if part in (fields := _fields(kind)):
                return options(fields[part])
        elif origin in (dict, Mapping):
            return options(arguments[1])
        elif origin in (tuple, list) and part.isdecimal():
            last = arguments[-1] is Ellipsis or origin is list
            return options(arguments[0 if last else min(int(part), len(arguments) - 1)])
    return ()


@functools.cache
def _fields(config_class: type[Config]) -> dict[str, Any]:
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def _is_text(kinds: _Kinds) -> bool:
    return set(kinds) - {type(None)} == {str}

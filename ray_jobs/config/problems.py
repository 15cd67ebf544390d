"""What is wrong with a configuration tree, as lines with full keys and a "did you mean".

pydantic finds the problems; here they become sentences in the user's words.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from ray_jobs.config import yaml_tree
from ray_jobs.config.overrides import options
from ttt import uris
from ttt.config import Config
from ttt.errors import UserError

_UNKNOWN = "unexpected_keyword_argument"


def describe(
    config_class: type[Config], tree: Mapping[str, Any], errors: Sequence[ErrorDetails]
) -> list[str]:
    """One line per key, in the order in which pydantic found them."""
    known = _known_keys(config_class, tree, "")
    sentences: dict[str, list[str]] = {}
    expectations: dict[str, list[str]] = {}
    for error in errors:
        key, value = _locate(tree, error)
        if error["type"] == _UNKNOWN:
            retired = getattr(config_class, "__retired_keys__", {})
            for name, sentence in _retired(key, value, retired) or [(key, "")]:
                _add(sentences, name, sentence or _unknown_key(name, known))
        elif error["type"] == "missing":
            _add(sentences, key, "required, but not given")
        elif error["type"] in ("value_error", "assertion_error"):
            _add(sentences, key, str(error.get("ctx", {}).get("error", error["msg"])))
        else:
            # A union reports each of its branches: they become one "expected a or b".
            _add(sentences, key, "")
            _add(expectations, key, _expected(error))
            expected = " or ".join(expectations[key])
            unquoted = expected == "text" and isinstance(value, bool | int | float)
            hint = "; put it in quotes" if unquoted else ""
            sentences[key] = [f"expected {expected}, got {_got(value)}{hint}"]
    return [
        f"{key}: {sentence}" if key else sentence
        for key, lines in sentences.items()
        for sentence in lines
    ]


def without_unknown_keys(tree: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> dict[str, Any]:
    """A copy of `tree` without the keys that no field has."""
    known = copy.deepcopy(dict(tree))
    for error in errors:
        if error["type"] == _UNKNOWN:
            path = _path_in(tree, error["loc"])
            node: Any = known
            for part in path[:-1]:
                node = node[part]
            node.pop(path[-1], None)
    return known


def not_finite(tree: Any) -> list[str]:
    """A line for each NaN or infinity in `tree`: no record of a run could hold them."""
    return [
        f"{key}: must be a finite number, got {yaml_tree.show(value)}"
        for key, value in _leaves(tree, "")
        if isinstance(value, float) and not math.isfinite(value)
    ]


def misleading_text(tree: Any) -> list[str]:
    """A line for each text in `tree` that no record can hold, or that is a URI which would lead
    elsewhere than it seems (`ttt.uris`)."""
    lines = []
    for key, value in _leaves(tree, ""):
        if not isinstance(value, str) or not value:
            continue
        try:
            value.encode()
            uris.check(value)
        except UnicodeEncodeError:
            shown = value.encode(errors="backslashreplace").decode()
            lines.append(f"{key}: {shown} is not UTF-8; rename the file or folder")
        except UserError as error:
            lines.append(f"{key}: {error}")
    return lines


def _leaves(tree: Any, key: str) -> list[tuple[str, Any]]:
    """Every value in `tree` that is neither a group nor a list, by its dotted key."""
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    else:
        return [(key, tree)]
    return [leaf for part, item in items for leaf in _leaves(item, _join(key, part))]


def _retired(key: str, value: Any, retired: Mapping[str, str]) -> list[tuple[str, str]]:
    """Keys that another program had, with what became of them; empty text for those nobody knows.

    A configuration class names them in `__retired_keys__`. Empty when there is none in `value`.
    """
    if (name := key.removeprefix("paper_metrics.")) in retired:
        return [(key, retired[name])]
    if not isinstance(value, Mapping):
        return []
    found = [(inner, _retired(_join(key, inner), item, retired)) for inner, item in value.items()]
    if not any(lines for _, lines in found):
        return []
    return [line for inner, lines in found for line in lines or [(_join(key, inner), "")]]


def _unknown_key(key: str, known: Sequence[str]) -> str:
    parent, _, name = key.rpartition(".")
    siblings = [path for path in known if path.rpartition(".")[0] == parent]
    elsewhere = [path for path in known if path not in siblings and not key.startswith(path + ".")]
    suggestions = (
        [path for path in elsewhere if path.rpartition(".")[2] == name][:3]
        or _closest(name, siblings)
        or difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8)
    )
    if suggestions:
        return f"unknown key; did you mean {' or '.join(suggestions)}?"
    names = ", ".join(sorted(path.rpartition(".")[2] for path in siblings))
    return f"unknown key; {parent or 'the top level'} has {names or 'no keys'}"


def _closest(name: str, siblings: Sequence[str]) -> list[str]:
    # Names are compared without their path: a long shared prefix makes everything alike.
    by_name = {path.rpartition(".")[2]: path for path in siblings}
    return [by_name[match] for match in difflib.get_close_matches(name, by_name, n=1, cutoff=0.6)]


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a group of keys",
    "dataclass": "a group of keys",
    "none": "null",
    "path": "a path",
}


def _expected(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in ("literal_error", "enum"):
        return str(error.get("ctx", {})["expected"])
    if kind in ("too_long", "too_short"):
        context = error.get("ctx", {})
        count = context.get("max_length", context.get("min_length"))
        return f"{'at most' if kind == 'too_long' else 'at least'} {count} values"
    return _EXPECTED.get(kind.partition("_")[0], error["msg"])


def _got(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the keys {', '.join(map(str, value))}" if value else "no keys"
    return yaml_tree.show(value)


def _locate(tree: Mapping[str, Any], error: ErrorDetails) -> tuple[str, Any]:
    """The dotted key of an error and the value found there."""
    path = _path_in(tree, error["loc"])
    if error["type"] == "missing":
        path = (*path, error["loc"][-1])
    value: Any = tree
    for part in path if error["type"] != "missing" else ():
        value = value[part]
    return ".".join(map(str, path)), value


def _path_in(tree: Any, location: Sequence[str | int]) -> tuple[Any, ...]:
    """`location` without the names of union branches that pydantic puts into it."""
    path: list[Any] = []
    for part in location:
        if _has(tree, part):
            path.append(part)
            tree = tree[part]
    return tuple(path)


def _has(node: Any, part: str | int) -> bool:
    if isinstance(node, list):
        return isinstance(part, int) and part < len(node)
    return isinstance(node, dict) and part in node


def _known_keys(kind: Any, tree: Any, prefix: str) -> list[str]:
    """Every dotted key that a value of type `kind` has, at any depth.

    Keys inside lists and free tables are those of the items that `tree` holds.
    """
    keys: list[str] = []
    for option in options(kind):
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if isinstance(option, type) and issubclass(option, Config):
            hints = typing.get_type_hints(option)
            for field in dataclasses.fields(option):
                key = _join(prefix, field.name)
                inner = tree.get(field.name) if isinstance(tree, Mapping) else None
                keys += [key, *_known_keys(hints[field.name], inner, key)]
        elif origin in (dict, Mapping) and isinstance(tree, Mapping):
            for name, inner in tree.items():
                key = _join(prefix, name)
                keys += [key, *_known_keys(arguments[1], inner, key)]
        elif origin in (tuple, list) and isinstance(tree, list):
            for index, inner in enumerate(tree):
                item = arguments[min(index, len(arguments) - 1)]
                item = arguments[0] if item is Ellipsis else item
                keys += _known_keys(item, inner, _join(prefix, index))
    return keys


def _join(prefix: str, part: Any) -> str:
    return f"{prefix}.{part}" if prefix else str(part)


def _add(lines: dict[str, list[str]], key: str, line: str) -> None:
    if line not in lines.setdefault(key, []):
        lines[key].append(line)

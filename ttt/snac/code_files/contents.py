"""What a file of codes holds before its layout is known: arrays, scales or text, by utterance."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttt.files.errors import cause
from ttt.files.text import decoded, read_text
from ttt.files.walk import suffix_of
from ttt.snac.code_files.tensors import read_array, read_named, read_tensors

CODE_SUFFIXES = (".npy", ".pt", ".safetensors", ".txt", ".jsonl")
TEXT_SUFFIXES = (".txt", ".jsonl")


class UnnamedLayout(ValueError):
    """Neither the caller nor the file says in which order the codes lie, or both do differently."""


@dataclass(frozen=True)
class Content:
    """One utterance as it lies in its file."""

    value: str | np.ndarray | list[np.ndarray]
    """Text, one array of any shape, or one array for each scale."""
    layout: str | None = None
    """What the file calls it."""


@dataclass(frozen=True)
class Place:
    """A line of a .jsonl file."""

    number: int
    """As an editor counts, from 1."""
    start: int
    """Bytes before it."""
    size: int
    """Its bytes."""


@dataclass(frozen=True)
class Line:
    """An utterance in a .jsonl file."""

    place: Place
    name: str
    """Its `id`, or the number."""
    content: Content | None
    problem: str | None = None
    """Why there is no content."""


def read_content(path: Path) -> Content:
    """What a file of one utterance holds. Raises ValueError and OSError."""
    suffix = suffix_of(path.name)
    if suffix == ".npy":
        return Content(read_array(path))
    if suffix == ".pt":
        return _of_tensors(read_tensors(path))
    if suffix == ".safetensors":
        tensors, metadata = read_named(path)
        if len(tensors) == 1 and "codes_0" not in tensors:
            return Content(_array(next(iter(tensors.values()))), metadata.get("layout"))
        return Content(_numbered(tensors), metadata.get("layout"))
    if suffix == ".txt":
        return _of_text(read_text(path))
    raise ValueError(f"not a file of codes; known are {', '.join(CODE_SUFFIXES)}")


def read_lines(path: Path) -> Iterator[Line]:
    """The utterances of a .jsonl file; blank lines are none. Raises ValueError and OSError."""
    content = path.read_bytes()
    decoded(content)
    seen: dict[str, int] = {}
    start = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        at = Place(number, start, len(line))
        start += len(line) + 1
        if not line.removeprefix(codecs.BOM_UTF8).strip():
            continue
        name, held, problem = str(number), None, None
        try:
            name, held = _of_line(line, name)
        except (ValueError, RecursionError) as error:
            problem = cause(error)
        if name in seen:
            held, problem = None, f"its id {name} is that of line {seen[name]}"
            name = f"{name}-{number}"
        seen.setdefault(name, number)
        yield Line(at, name, held, problem)


def read_line(path: Path, place: Place) -> Content:
    """What one line of a .jsonl file holds. Raises ValueError and OSError."""
    with open(path, "rb") as file:
        file.seek(place.start)
        return _of_line(file.read(place.size), "")[1]


def holds_codes(path: Path) -> bool:
    """Whether a .txt or .jsonl file is one of codes, and not a note that lies beside them.

    One that cannot be read is taken for one of codes: its reason is then told.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError):
        return True
    if TOKEN_TEXT in text:
        return True
    if suffix_of(path.name) == ".txt":
        return bool(text.strip()) and all(map(_NUMBER.fullmatch, _SEPARATORS.split(text.strip())))
    return _LINE_OF_CODES.search(text) is not None


TOKEN_TEXT = "<custom_token_"
_NUMBER = re.compile(r"[+-]?\d+", re.ASCII)
_SEPARATORS = re.compile(r"[\s,;]+")
_KEYS = ("codes", "ids", "tokens", "text")
_LINE_OF_CODES = re.compile(r'^\s*(\[|\{.*"(codes|ids|tokens|codes_0)"\s*:)', re.MULTILINE)
_LARGEST = 2**62
"""Beyond is no id of anything; such a number stands as the one before it in its place."""


def _of_line(line: bytes, name: str) -> tuple[str, Content]:
    """An utterance's id (`name` where it has none) and what it holds."""
    text, layout = decoded(line), None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"no JSON ({error}); each line is one utterance, a list, a text or an object"
        ) from error
    if isinstance(value, dict):
        named = value.get("id")
        if named is not None:
            if not isinstance(named, str | int) or isinstance(named, bool) or not str(named):
                raise ValueError(f"its id is {named!r}; needed is a text or a number")
            name = str(named)
        layout = value.get("layout")
        if layout is not None and not isinstance(layout, str):
            raise ValueError(f"its layout is {layout!r}; needed is a text")
        if "codes_0" in value:
            scales = {key: each for key, each in value.items() if key.startswith("codes_")}
            return name, Content(_numbered({k: _numbers(v) for k, v in scales.items()}), layout)
        there = [key for key in _KEYS if key in value]
        if "text" in there and len(there) > 1:
            there.remove("text")  # What is said, beside what it is said with.
        if len(there) != 1:
            keys = f"the keys {', '.join(sorted(value))}" if value else "no key"
            raise ValueError(f"holds {keys}; needed is one of {', '.join(_KEYS)}")
        value = value[there[0]]
    if isinstance(value, str):
        return name, _of_text(value, layout)
    return name, Content(_of_lists(value), layout)


def _of_text(text: str, layout: str | None = None) -> Content:
    if TOKEN_TEXT in text:
        return Content(text, layout or "orpheus")
    lines = [_SEPARATORS.split(line.strip(" \t\r,;")) for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("holds no codes")
    for word in (word for line in lines for word in line):
        if not _NUMBER.fullmatch(word):
            raise ValueError(f"holds {word[:40]!r}, neither a number nor {TOKEN_TEXT}N>")
    rows = [[int(word) if len(word) < 20 else _LARGEST for word in line] for line in lines]
    if _is_by_scale(rows) or all(len(row) == len(rows[0]) > 1 for row in rows):
        return Content(_of_lists(rows if len(rows) > 1 or len(rows[0]) == 7 else rows[0]), layout)
    return Content(_numbers([number for row in rows for number in row]), layout)


def _of_lists(value: Any) -> np.ndarray | list[np.ndarray]:
    if not isinstance(value, list):
        raise ValueError(f"holds a {type(value).__name__}; needed is a list of numbers or text")
    if not any(isinstance(each, list) for each in value):
        return _numbers(value)
    rows = [_numbers(each) for each in value]
    if _is_by_scale(rows):
        return rows
    if len({len(row) for row in rows}) > 1:
        lengths = sorted({len(row) for row in rows})
        raise ValueError(
            f"holds {len(rows)} lists of {lengths[0]} to {lengths[-1]} numbers; needed are rows "
            "of 7 or a list for each scale"
        )
    return np.stack(rows)


def _is_by_scale(rows: Sequence[Any]) -> bool:
    lengths = [len(row) for row in rows]
    return len(rows) == 3 and lengths == [lengths[0] * k for k in (1, 2, 4)]


def _numbers(values: Any) -> np.ndarray:
    if not isinstance(values, list):
        raise ValueError(f"holds a {type(values).__name__}; needed is a list of numbers")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"holds {str(value)[:40]}; codes are integers")
    inside = [value if -_LARGEST < value < _LARGEST else _LARGEST for value in values]
    return np.array(inside, dtype=np.int64)


def _of_tensors(value: Any) -> Content:
    layout = None
    if isinstance(value, dict) and {"layout", "codes"} == set(value):
        layout, value = value["layout"], value["codes"]
        if not isinstance(layout, str):
            raise ValueError(f"its layout is {layout!r}; needed is a text")
    if isinstance(value, torch.Tensor):
        return Content(_array(value), layout)
    if not isinstance(value, list | tuple) or not all(isinstance(x, torch.Tensor) for x in value):
        raise ValueError(f"holds a {type(value).__name__}; needed is a list of tensors")
    return Content([_array(each) for each in value], layout)


def _numbered(tensors: dict[str, Any]) -> list[np.ndarray]:
    names = [f"codes_{scale}" for scale in range(len(tensors))]
    if sorted(tensors) != names:
        found = f"the tensors {', '.join(sorted(tensors))}" if tensors else "no tensor"
        raise ValueError(f"holds {found}; needed are codes_0, codes_1, ...")
    return [_array(tensors[name]) for name in names]


def _array(tensor: torch.Tensor | np.ndarray) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"holds {str(tensor.dtype).removeprefix('torch.')}; codes are integers")
    return tensor.numpy()

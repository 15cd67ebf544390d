"""From a YAML file and `key.path=value` words to a typed configuration, or every problem at once.

`load_config` reads the file (and the one it names as `base`), applies the overrides and checks
the tree against a frozen dataclass of the library with pydantic. A problem is one line with its
full key. `dump_yaml` is the way back.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ray_jobs.config import problems as config_problems
from ray_jobs.config import yaml_tree
from ray_jobs.config.former_keys import former_keys, translate
from ray_jobs.config.overrides import apply as apply_override
from ttt.config import Config
from ttt.errors import UserError

C = TypeVar("C", bound=Config)

BASE_KEY = "base"
"""The one top-level key that is not part of the tree: the file whose values this one extends."""


class ConfigError(UserError):
    """All problems of one configuration: a heading line, then one line for each."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *self.problems]))

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception travels between processes by its arguments, which here are not `args`.
        return type(self), (self.source, self.problems)


def load_config(
    config_class: type[C],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    note: Callable[[str], None] | None = None,
) -> C:
    """The configuration in the file `path` (defaults alone without one) with `overrides` applied.

    An override is `key.path=value`: a text key keeps its value as it was typed, any other value is
    read as YAML (`ray_jobs.config.overrides`); the bare word `null` switches an optional thing off,
    text or not. Nothing is coerced but whole numbers to floats. `note` is told of keys that are
    accepted under a former name. Raises ConfigError with all problems.
    """
    source = str(path) if path is not None else "command line"
    tree = _read_with_base(Path(path), seen=()) if path is not None else {}
    other = _job_of_other_keys(config_class, tree)
    if other is not None:
        raise ConfigError(
            source,
            [
                f"its keys are those of {other}, not of this job; name a configuration of this "
                f"job, or run python -m ray_jobs.{other}"
            ],
        )
    applied = [apply_override(config_class, tree, text) for text in overrides]
    problems = [problem for problem in applied if problem is not None]
    config, found = validate_tree(config_class, tree)
    if note is not None:
        for sentence in former_keys(tree, getattr(config_class, "__aliases__", {})):
            note(sentence)
    if config is None or problems or found:
        raise ConfigError(source, [*problems, *found])
    return config


def _job_of_other_keys(config_class: type[Config], tree: Mapping[str, Any]) -> str | None:
    """The job whose keys all of a file's are, where some of them are none of this one's."""
    if set(tree) <= _keys(config_class):
        return None
    from ray_jobs.config.schema import JOB_CONFIGS  # It imports this module.
    from ray_jobs.config.schema import config_class as of_job

    jobs = {job: of_job(job) for job in JOB_CONFIGS}
    fits = [job for job, kind in jobs.items() if set(tree) <= _keys(kind)]
    return fits[0] if fits and config_class in jobs.values() else None


def _keys(config_class: type[Config]) -> set[str]:
    former = {name.partition(".")[0] for name in getattr(config_class, "__aliases__", {})}
    retired = {name.partition(".")[0] for name in getattr(config_class, "__retired_keys__", {})}
    return {field.name for field in dataclasses.fields(config_class)} | former | retired


def validate_tree(config_class: type[C], tree: Mapping[str, Any]) -> tuple[C | None, list[str]]:
    """`tree` as a `config_class`, or None and a line for each problem."""
    adapter = _adapter(config_class)
    tree, misused = translate(tree, getattr(config_class, "__aliases__", {}))
    if misused:
        return None, misused
    tree = getattr(config_class, "__complete__", dict)(tree)
    unwritable = [*config_problems.not_finite(tree), *config_problems.misleading_text(tree)]
    if unwritable:
        return None, unwritable
    try:
        return _validate(adapter, tree), []
    except ValidationError as error:
        first = error.errors()
    # A node with an unknown key never reaches its range checks: they are asked for again
    # without those keys, so that one run names everything.
    known = config_problems.without_unknown_keys(tree, first)
    second: Sequence[Any] = ()
    try:
        _validate(adapter, known)
    except ValidationError as error:
        second = error.errors()
    return None, config_problems.describe(config_class, tree, [*first, *second])


def dump_yaml(config: Config) -> str:
    """`config` as YAML that `load_config` reads back, each key under the sentence on its field."""
    return "".join(line + "\n" for line in _node_lines(config, indent=0))


@functools.cache
def _adapter(config_class: type[Config]) -> TypeAdapter[Any]:
    # Building one takes a thousand times as long as using it.
    return TypeAdapter(config_class)


def _validate(adapter: TypeAdapter[C], tree: Mapping[str, Any]) -> C:
    # Strict mode coerces nothing; read from JSON, it still takes lists as tuples and mappings as
    # dataclasses, which is what a YAML file holds.
    return adapter.validate_json(json.dumps(tree), strict=True)


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        chain = " -> ".join(file.name for file in (*seen, path))
        raise UserError(f"{path}: its base leads back to itself ({chain}); remove one `base`")
    tree = yaml_tree.read(path)
    if BASE_KEY not in tree:
        return tree
    base = tree.pop(BASE_KEY)
    if not isinstance(base, str):
        raise UserError(f"{path}: base must name one YAML file, got {yaml_tree.show(base)}")
    base_path = path.parent / base
    if not base_path.is_file():
        raise UserError(f"{path}: its base {base} is not a file; looked for {base_path}")
    return yaml_tree.merge(_read_with_base(base_path, (*seen, path.resolve())), tree)


def _node_lines(config: Config, indent: int) -> list[str]:
    sentences = field_sentences(type(config))
    plain = config.to_dict()
    lines: list[str] = []
    for field in dataclasses.fields(config):
        margin = " " * indent
        comment = textwrap.wrap(sentences[field.name], 96 - indent, break_on_hyphens=False)
        lines += [f"{margin}# {line}" for line in comment]
        value = getattr(config, field.name)
        if isinstance(value, Config):
            lines += [f"{margin}{field.name}:", *_node_lines(value, indent + 2)]
        else:
            text = yaml_tree.dump({field.name: plain[field.name]})
            lines += textwrap.indent(text, margin).splitlines()
    return lines


@functools.cache
def field_sentences(config_class: type[Config]) -> Mapping[str, str]:
    """Field -> the sentence below it, also of fields that the class takes from its base."""
    sentences: dict[str, str] = {}
    # pydantic reads the sentences of a class alone, not those of its base.
    for kind in reversed(config_class.__mro__):
        if not (issubclass(kind, Config) and dataclasses.is_dataclass(kind)):
            continue
        schema = _adapter(kind).json_schema()
        for name, field in schema.get("properties", {}).items():
            # pydantic drops a field's sentence that is the same as that of the field's class.
            referred = schema.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2], {})
            sentence = field.get("description") or referred.get("description", "")
            sentences[name] = sentence or sentences.get(name, "")
    return sentences

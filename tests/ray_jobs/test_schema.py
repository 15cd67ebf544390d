"""The schema that editors read: current, complete, and of the same mind as the loader."""

from dataclasses import dataclass

import jsonschema

from ray_jobs.config.schema import SCHEMA_PATH, schema_of, schema_text
from ttt.config import Config


@dataclass(frozen=True, kw_only=True)
class InnerConfig(Config):
    """Shared by two jobs."""

    required: int
    """A field that is called like a keyword of JSON Schema."""


@dataclass(frozen=True, kw_only=True)
class FirstConfig(Config):
    """One job."""

    inner: InnerConfig | None = None
    """What is inside."""
    name: str
    """No default."""


@dataclass(frozen=True, kw_only=True)
class SecondConfig(Config):
    """Another job."""

    inner: InnerConfig
    """What is inside."""


def test_the_file_is_current():
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text(), "run `make schema`"


def test_jobs_share_classes_and_may_leave_keys_to_a_base():
    schema = schema_of({"first": FirstConfig, "second": SecondConfig})
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["$defs"]) == {"first", "second", "InnerConfig"}
    inner = schema["$defs"]["InnerConfig"]["properties"]["required"]
    assert inner["description"] == "A field that is called like a keyword of JSON Schema."
    assert _problems(schema, "first", {"base": "a.yaml"}) == []
    assert _problems(schema, "first", {"inner": {"required": 3}, "name": "a"}) == []
    assert _problems(schema, "first", {"inner": {"requird": 3}}) != []
    assert _problems(schema, "second", {"name": "a"}) != []


def _problems(schema, job, tree):
    pointed = {**schema, "$ref": f"#/$defs/{job}"}
    return [error.message for error in jsonschema.Draft202012Validator(pointed).iter_errors(tree)]

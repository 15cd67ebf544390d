"""The JSON Schema of the jobs' configurations, from which editors complete keys.

It has one definition per job. A configuration file names its own in the first line:
`# yaml-language-server: $schema=schema.json#/$defs/train_decoder`.
"""

from __future__ import annotations

import json
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ray_jobs.config.load import BASE_KEY, field_sentences
from ttt.config import Config

JOB_CONFIGS = {
    "cache_codes": "ray_jobs.decoder.cache_config:CacheConfig",
    "train_decoder": "ray_jobs.decoder.train_config:TrainConfig",
    "tune_decoder": "ray_jobs.sweep.config:TuneConfig",
    "evaluate_decoder": "ray_jobs.decoder.evaluate_config:EvaluateConfig",
    "push_decoder": "ray_jobs.decoder.push_config:PushConfig",
    "decode_codes": "ray_jobs.decoder.evaluate_config:DecodeConfig",
    "export_onnx": "ray_jobs.decoder.onnx_config:ExportOnnxConfig",
    "cache_chapters": "ray_jobs.moshi.cache.config:CacheChaptersConfig",
    "evaluate_chapters": "ray_jobs.moshi.chapters.config:EvaluateChaptersConfig",
    "evaluate_pairs": "ray_jobs.moshi.pairs.config:EvaluatePairsConfig",
    "evaluate_all": "ray_jobs.moshi.all_config:EvaluateAllConfig",
    "train_ttt": "ray_jobs.moshi.train.config:TrainTTTConfig",
    "import_ttt": "ray_jobs.moshi.import_config:ImportTTTConfig",
}
"""Where the configuration class of each job lives; imported only when it is asked for."""

SCHEMA_PATH = Path(__file__).resolve().parents[2] / "configs" / "schema.json"


def config_class(job: str) -> type[Config]:
    """The configuration class of a job."""
    return pkgutil.resolve_name(JOB_CONFIGS[job])


def schema_text() -> str:
    """The content of configs/schema.json."""
    jobs = {job: config_class(job) for job in JOB_CONFIGS}
    return json.dumps(schema_of(jobs), indent=2, ensure_ascii=False) + "\n"


def schema_of(jobs: dict[str, type[Config]]) -> dict[str, Any]:
    """A JSON Schema with a definition per job, and one per class inside them.

    No key is required: a file may leave it to its base.
    """
    references, schema = TypeAdapter.json_schemas(
        [(job, "validation", TypeAdapter(kind)) for job, kind in jobs.items()]
    )
    inside = {kind.__name__: kind for job in jobs.values() for kind in _classes_in(job)}
    classes = {
        name: _explained(definition, inside[name]) if name in inside else definition
        for name, definition in _without_required(schema["$defs"]).items()
    }
    names = {job: ref["$ref"].removeprefix("#/$defs/") for (job, _mode), ref in references.items()}
    files = {job: _with_base(_explained(classes[name], jobs[job])) for job, name in names.items()}
    for name in names.values():
        # A job's own class stays as one of the classes where another job refers to it.
        if f'"#/$defs/{name}"' not in json.dumps([files, classes]):
            del classes[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration files of the jobs",
        "$defs": {**files, **classes},
    }


def _with_base(definition: dict[str, Any]) -> dict[str, Any]:
    base = {
        "type": "string",
        "description": "A file beside this one whose values this one extends and replaces.",
    }
    return {**definition, "properties": {BASE_KEY: base, **definition["properties"]}}


def _classes_in(kind: Any) -> Iterator[type[Config]]:
    """The configuration classes that a type names, itself among them."""
    if isinstance(kind, type) and issubclass(kind, Config):
        yield kind
        for inner in typing.get_type_hints(kind).values():
            yield from _classes_in(inner)
    for inner in typing.get_args(kind):
        yield from _classes_in(inner)


def _explained(definition: dict[str, Any], kind: type[Config]) -> dict[str, Any]:
    """With the sentences of fields that `kind` takes from its base."""
    sentences = field_sentences(kind)
    properties = {
        name: field if "$ref" in field else {**field, "description": sentences[name]}
        for name, field in definition["properties"].items()
    }
    return {**definition, "properties": properties}


def _without_required(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_required(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # Only a list is the keyword: a field may itself be called `required`.
    return {
        key: _without_required(item)
        for key, item in schema.items()
        if not (key == "required" and isinstance(item, list))
    }

"""Every file under configs/ names its job, loads as that job's configuration, and is complete."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from ray_jobs.config import yaml_tree
from ray_jobs.config.load import ConfigError, dump_yaml, load_config
from ray_jobs.config.schema import JOB_CONFIGS, SCHEMA_PATH, config_class

FILES = sorted(SCHEMA_PATH.parent.glob("*.yaml"))
FIRST_LINE = re.compile(r"# yaml-language-server: \$schema=schema\.json#/\$defs/(\w+)")


def job_of(path: Path) -> str:
    """The job that a configuration file's first line names."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    match = FIRST_LINE.fullmatch(first)
    assert match, f"{path.name} must begin with {FIRST_LINE.pattern}"
    return match[1]


def test_every_job_has_a_configuration():
    assert {job_of(path) for path in FILES} == set(JOB_CONFIGS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_configuration_loads(path, tmp_path):
    kind = config_class(job_of(path))
    config = load_config(kind, path)
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(kind, printed) == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_editors_find_nothing_wrong(path):
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    pointed = {**schema, "$ref": f"#/$defs/{job_of(path)}"}
    jsonschema.Draft202012Validator(pointed).validate(yaml_tree.read(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_configuration_of_another_job_is_named_in_one_line(path):
    own = job_of(path)
    other = "decode_codes" if own != "decode_codes" else "cache_codes"
    with pytest.raises(ConfigError) as refused:
        load_config(config_class(other), path)
    (problem,) = refused.value.problems
    assert f"its keys are those of {own}, not of this job" in problem
    assert problem.endswith(f"or run python -m ray_jobs.{own}")


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_every_key_is_explained(job):
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    classes = [schema["$defs"][job]]
    for definition in classes:
        assert definition["description"]
        for key, value in definition["properties"].items():
            # A field that refers to a class may leave the sentence to the class.
            explained = value.get("description") or "$ref" in value
            assert explained, f"{job}: {definition['title']}.{key} has no sentence"
            for name in re.findall(r"#/\$defs/(\w+)", json.dumps(value)):
                if schema["$defs"][name] not in classes:
                    classes.append(schema["$defs"][name])

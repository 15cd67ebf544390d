"""Every refusal with its exact sentence, and the way from YAML to dataclasses and back."""

import json
import pickle
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from ray_jobs.config import yaml_tree
from ray_jobs.config.load import ConfigError, dump_yaml, load_config
from ray_jobs.config.schema import JOB_CONFIGS, config_class
from ttt.config import Config
from ttt.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """How to step."""

    lr: float = 1e-3
    """Peak learning rate; this sentence is long so that the comment above the key has to be
    wrapped over more than one line of the printed file."""
    weight_decay: float = 0.01
    """Decay of the weights."""
    steps: int = 10
    """Steps to take."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr:g}")


@dataclass(frozen=True, kw_only=True)
class JobConfig(Config):
    """One of each kind of field."""

    name: str
    """What the run is called."""
    optim: OptimConfig = OptimConfig()
    """The optimizer."""
    average: OptimConfig | None = None
    """A second optimizer, or none."""
    stages: tuple[OptimConfig, ...] = ()
    """One after the other."""
    tables: dict[str, OptimConfig] = field(default_factory=dict)
    """By name."""
    weights: dict[str, float] = field(default_factory=dict)
    """By term."""
    by_epoch: dict[int, float] = field(default_factory=dict)
    """By number."""
    mode: Literal["fast", "exact"] = "exact"
    """How."""
    limit: int | None = None
    """At most so many."""
    scales: tuple[float, ...] = (1.0, 2.0)
    """Of any length."""
    span: tuple[int, int] = (0, 1)
    """From and to."""
    shuffle: bool = True
    """Whether to."""
    device: int | Literal["cpu"] = "cpu"
    """Which."""
    folder: str | None = None
    """Where, or nowhere."""
    tags: tuple[str, ...] = ()
    """Which ones."""
    pair: tuple[str, int] = ("a", 1)
    """A text and a number."""
    words: dict[str, str] = field(default_factory=dict)
    """By name."""
    anything: dict[str, Any] = field(default_factory=dict)
    """Of any kind."""


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_text(text, *overrides, **others):
        for name, content in {"job": text, **others}.items():
            Path(f"{name}.yaml").write_text(content)
        return load_config(JobConfig, "job.yaml", overrides)

    return load_text


def test_defaults_file_and_overrides(load):
    config = load(
        "name: a\noptim: {lr: 1e-4}\nscales: [1, 2.5]\nby_epoch: {1: 1.0, 4: 2}\n",
        "optim.steps=3",
        "average.lr=2e-4",
        "mode=fast",
        "limit=null",
        "weights={l1: 1}",
        "weights.mel=0.5",
        "shuffle=false",
        "stages=[{lr: 1}, {}]",
        "stages.1.lr=5e-1",
        "device=0",
    )
    assert config == JobConfig(
        name="a",
        optim=OptimConfig(lr=1e-4, steps=3),
        average=OptimConfig(lr=2e-4),
        scales=(1.0, 2.5),
        by_epoch={1: 1.0, 4: 2.0},
        mode="fast",
        weights={"l1": 1.0, "mel": 0.5},
        shuffle=False,
        stages=(OptimConfig(lr=1.0), OptimConfig(lr=0.5)),
        device=0,
    )
    assert isinstance(config.optim.lr, float)
    assert isinstance(config.scales[0], float)
    assert isinstance(config.stages, tuple)


TYPED = [
    "Season #2", "#2", "a #b # c", "a: b", "a:", ": a", "- a", "-", "? a", "a, b", " a", "a ",
    "  a  ", '"a"', "'a'", "it's", '"', "yes", "no", "on", "off", "true", "False", "Null",
    "NULL", "~", "nil", "none", "1e-4", "2024", "084", "0x1f", "1_000", "3.0", ".inf", "nan",
    "2026-01-01", "12:30", "[a]", "[a", "{a}", "{a: b}", "}", "*x", "&x", "&x a", "!x",
    "!!int 3", "%", "%x", "@x", "`x`", "|", ">", "| a", "a=b", "a=b=c", "=", "<<", "---",
    "--- a", "...", "\\", "a\\nb", "$HOME", "~/x", "a\nb", "a\tb", "\ta", "a\u00a0", "ü", "日本語",
    "😀", "\ufeffa", "a\x85b", "a\u2028b", "\x07", "a #\n- b", "x" * 999, "C:\\data",
    "https://host/a?b=c&d=e", "s3://bucket/run%232?region=eu-west-1",
]  # fmt: skip


@pytest.mark.parametrize("text", ['a "b"\n', "\\", "\t#"])
def test_a_json_string_with_escapes_is_what_it_stands_for(load, text):
    assert load("name: a\n", f"name={json.dumps(text)}").name == text


@pytest.mark.parametrize("text", TYPED)
def test_a_text_key_keeps_its_text_as_typed_and_so_does_its_file(load, text):
    for override in (f"name={text}", f"folder={text}"):
        config = load("name: a\n", override)
        assert getattr(config, override.partition("=")[0]) == text
        assert load(dump_yaml(config)) == config
    config = load("name: a\ntags: [a, b]\nwords: {w: a}\n", f"tags.1={text}", f"words.v={text}")
    assert config.tags == ("a", text)
    assert config.words == {"w": "a", "v": text}
    assert load(dump_yaml(config)) == config


def test_null_alone_switches_an_optional_text_off_and_is_a_name_where_nothing_is_optional(load):
    text = "name: a\nfolder: b\n"
    assert load(text, "folder=null").folder is None
    assert load(text, "folder= null").folder == " null"
    assert load(text, "name=null").name == "null"


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("tags=[084, 1e-4, yes, null, ~, 'a, b', s3://b/x]", "tags",
         ("084", "1e-4", "yes", "null", "~", "a, b", "s3://b/x")),
        ("tags=[]", "tags", ()),
        ("pair=[2024, 3]", "pair", ("2024", 3)),
        ("words={a: 1e-4, b: null, 3: yes}", "words", {"a": "1e-4", "b": "null", "3": "yes"}),
        ("anything={a: 1e-4, b: null}", "anything", {"a": 1e-4, "b": None}),
        ("anything.a=1e-4", "anything", {"a": 1e-4}),
        ("anything.a=[yes, 3]", "anything", {"a": ["yes", 3]}),
        ("weights={l1: 1}", "weights", {"l1": 1.0}),
        ("device=0", "device", 0),
        ("device=cpu", "device", "cpu"),
        ("mode='fast'", "mode", "fast"),
        ("limit= 3 ", "limit", 3),
        ("optim=lr: 3", "optim", OptimConfig(lr=3.0)),
    ],
)  # fmt: skip
def test_items_of_text_keep_their_spelling_and_all_else_is_yaml(load, override, key, value):
    assert getattr(load("name: a\n", override), key) == value


def test_a_file_is_yaml(load):
    for text, got in (("3", "3; put it in quotes"), ("[a]", "[a]")):
        with pytest.raises(ConfigError) as caught:
            load(f"name: {text}\n")
        assert caught.value.problems == (f"name: expected text, got {got}",)


def test_an_old_key_of_text_keeps_its_text_too():
    config = load_config(
        config_class("evaluate_pairs"), None, ["output=o", "swuggy_audio_dir=/data/Season #2"]
    )
    assert config.tasks["swuggy"].root == "/data/Season #2"


def test_without_a_file():
    assert load_config(JobConfig, None, ["name=a"]) == JobConfig(name="a")
    with pytest.raises(ConfigError) as caught:
        load_config(JobConfig, None)
    assert str(caught.value) == "command line: 1 problem\nname: required, but not given"


def test_all_problems_at_once(load):
    text = """
name: a
optim:
  weight_decy: 0.1
  lr: 0
modle: fast
"""
    with pytest.raises(ConfigError) as caught:
        load(text, "limit=ten", "optim.stepz=3")
    assert str(caught.value).splitlines() == [
        "job.yaml: 5 problems",
        "optim.weight_decy: unknown key; did you mean optim.weight_decay?",
        "optim.stepz: unknown key; did you mean optim.steps?",
        "limit: expected a whole number, got 'ten'",
        "modle: unknown key; did you mean mode?",
        "optim: lr must be > 0, got 0",
    ]


@pytest.mark.parametrize(
    "override, line",
    [
        ("optim.lr=fast", "optim.lr: expected a number, got 'fast'"),
        ("optim.lr=true", "optim.lr: expected a number, got true"),
        ('optim.lr="1"', "optim.lr: expected a number, got '1'"),
        ("optim.lr=null", "optim.lr: expected a number, got null"),
        ("optim.lr=.nan", "optim.lr: must be a finite number, got .nan"),
        ("weights={l1: .inf}", "weights.l1: must be a finite number, got .inf"),
        ("optim.steps=true", "optim.steps: expected a whole number, got true"),
        ("optim.steps=1.5", "optim.steps: expected a whole number, got 1.5"),
        ("optim.steps=1.0", "optim.steps: expected a whole number, got 1.0"),
        ("shuffle=1", "shuffle: expected true or false, got 1"),
        ("shuffle=yes", "shuffle: expected true or false, got 'yes'"),
        (
            "mode=fast #2",
            "mode: what follows fast would be dropped as a comment; put text into quotes",
        ),
        (
            "tags=[a] #b",
            "tags: what follows [a] would be dropped as a comment; put text into quotes",
        ),
        ("tags=a", "tags: expected a list, got 'a'"),
        ("tags=[[a]]", "tags.0: expected text, got [a]"),
        ("name=a\udcff", r"name: a\udcff is not UTF-8; rename the file or folder"),
        ("nam=a: b", "nam: unknown key; did you mean name?"),
        ("mode=slow", "mode: expected 'fast' or 'exact', got 'slow'"),
        ("optim=3", "optim: expected a group of keys, got 3"),
        ("optim=null", "optim: expected a group of keys, got null"),
        ("average=3", "average: expected a group of keys, got 3"),
        ("scales=3", "scales: expected a list, got 3"),
        ("scales=[1, x]", "scales.1: expected a number, got 'x'"),
        ("span=[1]", "span.1: required, but not given"),
        ("span=[1, 2, 3]", "span: expected at most 2 values, got [1, 2, 3]"),
        ("weights={l1: x}", "weights.l1: expected a number, got 'x'"),
        ("weights=[1]", "weights: expected a group of keys, got [1]"),
        ("limit={a: 1}", "limit: expected a whole number, got the keys a"),
        ("device=gpu", "device: expected a whole number or 'cpu', got 'gpu'"),
        ("average.lr=-1", "average: lr must be > 0, got -1"),
        ("tables={slow: {lr: -1}}", "tables.slow: lr must be > 0, got -1"),
        (
            "tables={slow: {lrr: 1}}",
            "tables.slow.lrr: unknown key; did you mean tables.slow.lr?",
        ),
        ("stages=[{}, {lr: -1}]", "stages.1: lr must be > 0, got -1"),
        ("stages=[{}, {step: 1}]", "stages.1.step: unknown key; did you mean stages.1.steps?"),
        (
            "optim.zzz=1",
            "optim.zzz: unknown key; optim has lr, steps, weight_decay",
        ),
        ("optm.lr=1", "optm: unknown key; did you mean optim?"),
        (
            "weight_decay=1",
            "weight_decay: unknown key; did you mean optim.weight_decay or average.weight_decay?",
        ),
        ("+optim.lr=1", "+optim: unknown key; did you mean optim?"),
        ("optim.lr", "optim.lr: not an override; write key.path=value"),
        ("=1", "=1: not an override; write key.path=value"),
        ("optim..lr=1", "optim..lr=1: not an override; write key.path=value"),
        ("optim.lr=", "optim.lr: no value given; write optim.lr=null to switch it off"),
        ("name.first=a", "name.first: name is 'a', which has no keys"),
        ("scales.5=1", "scales.5: scales is a list of 1; 5 is not one of its places"),
        (
            "scales=[1",
            "scales: '[1' is not valid YAML: expected ',' or ']', but got '<stream end>' in line 1",
        ),
    ],
)
def test_refusals(load, override, line):
    with pytest.raises(ConfigError) as caught:
        load("name: a\nscales: [1]\n", override)
    assert str(caught.value).splitlines() == ["job.yaml: 1 problem", line]


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_uris_that_would_lead_elsewhere_are_refused_by_every_job(job):
    kind = config_class(job)
    keys = [f.name for f in fields(kind) if f.name in ("run", "output", "input", "decoder")]
    with pytest.raises(ConfigError) as caught:
        load_config(kind, None, [f"{key}=s3://bucket/run#2" for key in keys])
    assert caught.value.problems == tuple(
        f"{key}: s3://bucket/run#2: what follows a # would be dropped; rename it, or write %23 "
        "for a #"
        for key in keys
    )


@pytest.mark.parametrize(
    "override, read", [("mode=fast #2", "fast"), ("tags=[a] #b", "[a]"), ("limit=3 # many", "3")]
)
def test_nothing_is_dropped_as_a_comment(load, override, read):
    with pytest.raises(ConfigError) as caught:
        load("name: a\n", override)
    key = override.partition("=")[0]
    sentence = f"what follows {read} would be dropped as a comment; put text into quotes"
    assert caught.value.problems == (f"{key}: {sentence}",)
    with pytest.raises(ConfigError, match=r"tags: '.a #b.' is not valid YAML: expected ',' or ']'"):
        load("name: a\n", "tags=[a #b]")


def test_base_merges_deep_and_null_switches_off(load):
    config = load(
        "base: middle.yaml\noptim: {steps: 7}\naverage: null\nscales: [9]\n",
        middle="base: root.yaml\noptim: {lr: 0.5}\naverage: {lr: 1}\n",
        root="name: root\noptim: {lr: 0.25, weight_decay: 0.125}\nscales: [1, 2, 3]\n",
    )
    assert config.optim == OptimConfig(lr=0.5, weight_decay=0.125, steps=7)
    assert config.average is None
    assert config.scales == (9.0,)
    assert config.name == "root"


def test_base_is_found_beside_its_file(load, tmp_path, monkeypatch):
    load("base: root.yaml\n", root="name: root\n")
    monkeypatch.chdir("/")
    assert load_config(JobConfig, tmp_path / "job.yaml").name == "root"


@pytest.mark.parametrize(
    "files, sentence",
    [
        (
            {"text": "base: other.yaml\n", "other": "base: job.yaml\n"},
            "job.yaml: its base leads back to itself (job.yaml -> other.yaml -> job.yaml); "
            "remove one `base`",
        ),
        (
            {"text": "base: missing.yaml\n"},
            "job.yaml: its base missing.yaml is not a file; looked for missing.yaml",
        ),
        ({"text": "base: [a]\n"}, "job.yaml: base must name one YAML file, got [a]"),
        ({"text": "- a\n"}, "job.yaml: must hold keys and values, got [a]"),
        ({"text": "a: 1\na: 2\n"}, "job.yaml: not valid YAML: a given twice in line 2"),
        (
            {"text": "a: [1\n"},
            "job.yaml: not valid YAML: expected ',' or ']', but got '<stream end>' in line 2",
        ),
        (
            {"text": "when: !!python/object:os.system {}\n"},
            "job.yaml: not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system' in line 1",
        ),
    ],
)
def test_files_that_cannot_be_used(load, files, sentence):
    with pytest.raises(UserError) as caught:
        load(files.pop("text"), **files)
    assert str(caught.value) == sentence


def test_missing_file():
    with pytest.raises(UserError, match="no such file; --config takes the path of a YAML file"):
        load_config(JobConfig, "nowhere.yaml")


def test_an_alias_is_a_copy(load):
    config = load("name: a\noptim: &o {steps: 3}\naverage: *o\n", "optim.steps=4")
    assert (config.optim.steps, config.average.steps) == (4, 3)


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("010", 10),
        ("12:30", "12:30"),
        ("yes", "yes"),
        ("off", "off"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("~", None),
        ("True", True),
        ("s3://bucket/path", "s3://bucket/path"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    parsed = yaml_tree.parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text", ["1e-4", "yes", "2026-01-01", "12:30", "null", "3", "", "a: b", "é"]
)
def test_text_stays_text_in_yaml(text):
    assert yaml_tree.parse(yaml_tree.dump({"name": text})) == {"name": text}


def test_dump_can_be_loaded_and_explains_itself(load):
    config = JobConfig(
        name="1e-4",
        average=OptimConfig(lr=1e-12),
        stages=(OptimConfig(), OptimConfig(lr=3.0)),
        tables={"slow": OptimConfig(lr=0.5)},
        weights={"l1": 1e20},
        by_epoch={3: 0.5},
    )
    text = dump_yaml(config)
    assert load(text) == config
    assert "# What the run is called.\nname: '1e-4'\n" in text
    assert "optim:\n  # Peak learning rate; this sentence is long" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ConfigError("a.yaml", ["x: unknown key"])))
    assert str(error) == "a.yaml: 1 problem\nx: unknown key"
    assert error.problems == ("x: unknown key",)

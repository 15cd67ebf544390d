"""The rules of the house that a program can check."""

import ast
import pkgutil
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.config.schema import JOB_CONFIGS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for folder in ("ttt", "ray_jobs", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
MOST_LINES = 320


def test_the_library_runs_without_ray_and_pydantic():
    # Not yaml: huggingface_hub, through which snac finds its weights, imports it by itself.
    script = """
        import importlib, pkgutil, sys
        import ttt

        for module in pkgutil.walk_packages(ttt.__path__, "ttt."):
            importlib.import_module(module.name)
        assert not {"ray", "ray_jobs", "pydantic"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_and_named_for_what_it_holds(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{lines} lines; split it at its natural joint"
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")


def test_the_library_imports_no_wiring():
    for path in (ROOT / "ttt").rglob("*.py"):
        wiring = {"ray", "ray_jobs", "pydantic", "yaml"} & {
            name.partition(".")[0] for name in _imports(path)
        }
        assert not wiring, f"{path.relative_to(ROOT)} imports {wiring}"


def test_the_training_core_knows_nothing_of_what_is_trained():
    known = ("ttt.snac", "ttt.moshi", "ttt.layers", "ttt.eval", "ray", "ray_jobs")
    paths = sorted((ROOT / "ttt" / "training").rglob("*.py"))
    assert paths
    for path in paths:
        for name in _imports(path):
            assert not any(f"{name}.".startswith(f"{package}.") for package in known), (
                f"{path.relative_to(ROOT)} imports {name}"
            )


def test_the_wiring_holds_no_signal_arithmetic():
    arithmetic = ("torch.nn", "torch.fft", "torchaudio", "scipy", "numpy.fft")
    for path in (ROOT / "ray_jobs").rglob("*.py"):
        found = [name for name in _imports(path) if name.startswith(arithmetic)]
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_only_items_calls_the_pool_of_actors():
    pool = "ray_jobs.runtime.actors.ActorPool", "ray_jobs.runtime.actors.over_actors"
    for path in (ROOT / "ray_jobs").rglob("*.py"):
        if path.name not in ("items.py", "actors.py"):
            found = [name for name in _imported_names(path) if name in pool]
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_every_job_is_plan_describe_and_execute():
    for job in JOB_CONFIGS:
        tree = ast.parse((ROOT / "ray_jobs" / f"{job}.py").read_text(encoding="utf-8"))
        runs = [
            {word.arg for word in node.keywords}
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("run", "cli.run")
        ]
        assert runs, f"{job} is no job"
        for words in runs:
            assert {"plan", "describe", "execute"} <= words, job
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("later", "cli.later"):
                (name,) = node.args
                assert callable(pkgutil.resolve_name(ast.literal_eval(name))), job


def _imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_job_modules_define_no_classes():
    # A module run with -m is __main__, and Ray pickles its classes by value: they lose identity.
    for path in (ROOT / "ray_jobs").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.If) and "__main__" in ast.unparse(node) for node in tree.body):
            classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
            assert not classes, f"{path.relative_to(ROOT)} defines {classes}"


ELEMENTS = (
    "html|head|body|main|header|section|div|span|h[1-6]|p|em|strong|ul|ol|li|dl|dt|dd|table|thead"
    "|tbody|tr|th|td|caption|figure|figcaption|img|svg|audio|source|details|summary|style|script"
    "|meta|link|pre|code|br|hr"
)
# Not i and b, which are names of placeholders.
TAG = rf"<!doctype|</?(?:{ELEMENTS})\s*/?>|<(?:{ELEMENTS}|a)\s+[a-z-]+=|<(?:div|table)\b"


def test_there_is_no_html_in_python():
    # Pages are templates (ray_jobs/reports/templates); Python gives them values.
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        found = [text for text in texts if isinstance(text, str) and re.search(TAG, text, re.I)]
        assert not found, f"{path.relative_to(ROOT)} holds HTML: {found}"


@pytest.mark.parametrize("text", ["<div", "</p>", "<p>", '<table class="x">', "<br/>", "<a href="])
def test_html_is_known_when_it_is_seen(text):
    assert re.search(TAG, text, re.I)
    assert not re.search(TAG, "a < b, <folder>, <class 'int'>, <pid>, <i>")


WALL_CLOCK = (
    r"\btime\.time\b|\btime_ns\b|from time import|\b(?:local|gm|c|asc)time\(|\bstrftime\("
    r"|\.now\(|utcnow\(|\.today\(|st_[acm]time|get[acm]time\("
)


def test_nothing_is_decided_by_the_wall_clock():
    # It may be set back; intervals are time.monotonic's. Only a result's origin has a date.
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        found = re.findall(WALL_CLOCK, text)
        allowed = [".now("] if path == ROOT / "ttt" / "records.py" else []
        assert found == allowed, f"{path.relative_to(ROOT)} reads the wall clock: {found}"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)

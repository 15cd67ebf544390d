"""The rules of the house that a program can check."""

import ast
import dataclasses
import itertools
import pkgutil
import re
import subprocess
import sys
import textwrap
import typing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.config.schema import JOB_CONFIGS, config_class
from ttt.config import Config

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for folder in ("ttt", "ray_jobs", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
FOLDERS = sorted({path.parent for path in SOURCES if path.parent.name != "benchmarks"})
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


COMMANDS = {*JOB_CONFIGS, "submit", "schema", "demo"}


def test_the_top_of_ray_jobs_holds_the_commands_alone():
    top = {path.stem: path for path in (ROOT / "ray_jobs").glob("*.py")}
    assert set(top) == COMMANDS | {"__init__"}
    for name, path in top.items():
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 80, f"{name} has {lines} lines: a command line, and the work elsewhere"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_is_small_and_a_shared_prefix_is_a_package(folder: Path):
    if folder == ROOT / "ray_jobs":  # The commands, as many as there are.
        return
    names = sorted(path.stem for path in folder.glob("*.py") if path.name != "__init__.py")
    assert len(names) <= 14, f"{len(names)} modules: {names}"
    prefixes = Counter(name.partition("_")[0] for name in names if "_" in name)
    shared = [prefix for prefix, count in prefixes.items() if count > 2]
    assert not shared, f"{shared}: a prefix shared by three files is a package's name"


# What each room may import besides itself. A module belongs to the innermost room that holds it.
CORE = {"ttt", "ttt.files", "ttt.sound", "ttt.statistics"}
ROOMS = {
    "ttt": CORE,
    "ttt.files": CORE,
    "ttt.sound": CORE,
    "ttt.statistics": CORE,
    "ttt.synthetic": CORE,
    "ttt.training": CORE,
    "ttt.layers": CORE,
    "ttt.moshi": {*CORE, "ttt.layers", "ttt.training", "ttt.synthetic"},
    "ttt.snac": {*CORE, "ttt.training"},
    "ttt.eval": {*CORE, "ttt.layers", "ttt.moshi"},
    "ray_jobs.config": {*CORE},
    "ray_jobs.runtime": {*CORE, "ray_jobs.config"},
    "ray_jobs.training": {*CORE, "ttt.training", "ray_jobs.config", "ray_jobs.runtime"},
    "ray_jobs.reports": {*CORE, "ray_jobs.config", "ttt.snac", "ttt.moshi", "ttt.eval"},
}
LIBRARY = {room for room in ROOMS if room.startswith("ttt")}
BELOW = {
    *LIBRARY,
    "ray_jobs.config",
    "ray_jobs.runtime",
    "ray_jobs.training",
    "ray_jobs.reports",
}
ROOMS |= {
    "ray_jobs.decoder": BELOW,
    "ray_jobs.moshi": BELOW,
    "ray_jobs.sweep": {*BELOW, "ray_jobs.decoder"},
    "ray_jobs": {*BELOW, "ray_jobs.decoder", "ray_jobs.moshi", "ray_jobs.sweep"},
}


def _room(module: str) -> str:
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def test_arrows_between_packages_run_one_way():
    # Imports inside functions and under TYPE_CHECKING included.
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in ("ttt", "ray_jobs")
    }
    wrong = []
    for module, path in modules.items():
        here = _room(module)
        for name in _imported_names(path):
            found = name if name in modules else name.rpartition(".")[0]
            if found not in modules or found == "ray_jobs":
                continue
            there = _room(found)
            if there != here and there not in ROOMS[here]:
                wrong.append(f"{module} imports {found}")
    assert not wrong, "\n".join(wrong)


def test_the_allowed_arrows_make_no_circle():
    for here, allowed in ROOMS.items():
        for there in allowed - {here}:
            both_core = {here, there} <= CORE
            commands = "ray_jobs" in (here, there)
            assert both_core or commands or here not in ROOMS[there], f"{here} <-> {there}"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")
def test_what_git_ignores_is_not_in_it():
    listed = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    found = subprocess.run(listed, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert not found, f"made by a run, not written by anyone: {found.splitlines()[:3]}"


WORKER_KEYS = {"num_workers", "cpus_per_worker", "gpus_per_worker", "address", "local_cpus"}
TRAINING_KEYS = {"min_workers", "max_failures"}
WITHOUT_WORKERS = {
    "import_ttt": "it reads one folder and writes another",
    "export_onnx": "as import_ttt",
    "push_decoder": "it sends three files",
}


def _config_classes() -> set[type[Config]]:
    found: set[type[Config]] = set()

    def visit(kind: object) -> None:
        if isinstance(kind, type) and issubclass(kind, Config) and kind not in found:
            found.add(kind)
            for inner in typing.get_type_hints(kind).values():
                visit(inner)
        for inner in typing.get_args(kind):
            visit(inner)

    for job in JOB_CONFIGS:
        visit(config_class(job))
    return found


def test_workers_are_configured_by_one_set_of_keys():
    for kind in _config_classes():
        names = {field.name for field in dataclasses.fields(kind)}
        about_workers = {name for name in names if re.search(r"worker|gpu|cpus|address", name)}
        assert about_workers <= WORKER_KEYS | TRAINING_KEYS, f"{kind.__name__}: {about_workers}"
        if about_workers:
            assert names >= WORKER_KEYS, f"{kind.__name__} lacks {WORKER_KEYS - names}"
    for job in JOB_CONFIGS.keys() - WITHOUT_WORKERS:
        cluster = typing.get_type_hints(config_class(job))["cluster"]
        assert {field.name for field in dataclasses.fields(cluster)} >= WORKER_KEYS, job


def test_a_concept_has_one_class():
    kinds = sorted(_config_classes(), key=lambda kind: kind.__name__)
    for first, second in itertools.combinations(kinds, 2):
        keys = [{field.name for field in dataclasses.fields(kind)} for kind in (first, second)]
        same = len(keys[0]) > 1 and keys[0] == keys[1]
        related = issubclass(first, second) or issubclass(second, first)
        assert not same or related, f"{first.__name__} and {second.__name__} have the same keys"


FIGURES = "ttt.plots", "ttt.eval.figures"


def test_pages_read_summaries_alone():
    # Records are read and figures of Moshi drawn where results are written; a page shows them.
    readers = re.compile(r"ttt\.eval\..*records|ttt\.snac\.cache|ray_jobs\.runtime|pyarrow|torch\b")
    for path in (ROOT / "ray_jobs" / "reports").rglob("*.py"):
        found = [name for name in _imported_names(path) if readers.match(name)]
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


MANY_PARAMETERS = {
    "tiny_lm": "mirrors the arguments of moshi's own model, which a test may set one by one",
    "tiny_arguments": "as tiny_lm",
    "run": "ray_jobs.runtime.cli: the parts of a command line, keywords of one call in each job",
    "evaluate_codes": "the library's call in one line: the streams' options beside the model's",
    "verify": "a check that its tests drive into every corner",
    "cache_shard": "what a shard is made of, and how",
    "curves": "a picture's words, keywords all",
    "scan": "a kernel: every tensor of the update by its name in the paper",
}


def test_functions_take_at_most_seven_parameters():
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] == "benchmarks":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            names = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            count = len([name for name in names if name not in ("self", "cls")])
            where = f"{path.relative_to(ROOT)}: {node.name} takes {count}"
            assert count <= 7 or node.name in MANY_PARAMETERS, where


MUTABLE_STATE = {
    "_kept_cursors": "an actor ends with its last handle, so the driver keeps it",
}
MUTATION = "append|add|update|pop|clear|setdefault|extend|remove|insert|discard|popitem"


def test_modules_hold_no_mutable_state():
    # Benchmarks may: what a bare pool of processes loads has no other place.
    for path in (path for path in SOURCES if path.parent.name != "benchmarks"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Global)], path
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and _is_mutable(node.value):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (t.id for t in targets if isinstance(t, ast.Name)):
                    changed = (
                        rf"(?<![\w.]){name}(\[[^\]]*\])?(\.({MUTATION})\(|\[[^\]]*\] [-+|]?= )"
                    )
                    found = re.search(changed, text)
                    assert not found or name in MUTABLE_STATE, (
                        f"{path.relative_to(ROOT)}: {name} is changed"
                    )


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func) in ("list", "dict", "set", "defaultdict", "Counter", "deque")
    return isinstance(
        value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    )


PROMISED = {
    "log_spectral_distance": "a name that callers outside rely on",
    "lsd_bands": "the same by bands, as all_metrics gives it, for another transform",
    "ratio_interval": "the third of the library's intervals for many independent values",
}


def test_what_only_tests_call_lives_in_tests():
    readers = [*SOURCES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    for folder in ("docs", "configs", "cluster", "ray_jobs/reports/templates"):
        readers += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    words = Counter[str]()
    for path in readers:
        words.update(re.findall(r"\w+", path.read_text(encoding="utf-8", errors="ignore")))
    alone = []
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if named and words[node.name] == 1 and node.name not in PROMISED:
                alone.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not alone, alone


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

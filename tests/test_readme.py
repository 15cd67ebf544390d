"""README and guide say what is true: their commands run or parse, their files exist."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ray_jobs.config.load import load_config
from ray_jobs.config.schema import config_class
from ray_jobs.moshi.pairs.config import ALIASES

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path: (ROOT / path).read_text()
    for path in (
        "README.md",
        "docs/decoder.md",
        "docs/chapters.md",
        "docs/pairs.md",
        "docs/tune.md",
    )
}


def shell_lines(text: str) -> list[str]:
    """The commands of all bash blocks, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip()]


def job_commands(text: str) -> list[list[str]]:
    """`ray_jobs.<job> arguments...` of every command that runs a job."""
    commands = [line for line in shell_lines(text) if "python -m ray_jobs." in line]
    # What is submitted takes the words of the job itself.
    words = [line.replace("ray_jobs.submit ", "ray_jobs.") for line in commands]
    return [shlex.split(line.split("python -m ", 1)[1]) for line in words]


def quick_commands() -> list[str]:
    (block,) = re.findall(r"```bash\n# quick.*?\n(.*?)```", PAGES["README.md"], flags=re.DOTALL)
    return block.strip().splitlines()


@pytest.mark.parametrize("command", quick_commands())
def test_quick_commands_run(command):
    program, *arguments = shlex.split(command)
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_every_job_command_names_real_configurations_and_keys(page):
    commands = job_commands(PAGES[page])
    assert len(commands) >= 4
    for module, *arguments in commands:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
        if "--config" not in arguments:
            continue
        path = arguments[arguments.index("--config") + 1]
        overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
        load_config(config_class(module.removeprefix("ray_jobs.")), str(ROOT / path), overrides)


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    folders = "ttt|ray_jobs|configs|docs|benchmarks|cluster|tests"
    names = re.findall(rf"`((?:{folders})/[\w./-]*)`", PAGES[page])
    names += re.findall(r"\]\(((?:docs|benchmarks)/[\w./-]+)\)", PAGES[page])
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing


def test_troubleshooting_quotes_sentences_of_the_source():
    table = PAGES["README.md"].split("## Troubleshooting")[1].split("##")[0]
    sentences = re.findall(r"^\| `(.+?)` \|", table, flags=re.MULTILINE)
    ours = [sentence for sentence in sentences if "core_worker.cc" not in sentence]
    assert len(ours) >= 5
    source = " ".join(
        " ".join(path.read_text().split())
        for folder in ("ttt", "ray_jobs")
        for path in (ROOT / folder).rglob("*.py")
    )
    # Adjacent string literals are one sentence.
    source = re.sub(r"\" f?\"", "", source)
    for sentence in ours:
        for part in filter(None, (piece.strip(" ;?") for piece in sentence.split("..."))):
            assert part in source, f"nothing says {part!r} any more"


def test_the_page_on_pairs_lists_the_original_keys_that_are_taken():
    section = PAGES["docs/pairs.md"].split("## The original's keys")[1]
    named = set()
    for pattern in re.findall(r"^\| `([^`:]+)(?::[^`]*)?` \|", section, flags=re.MULTILINE):
        before, braced, after = re.fullmatch(r"(?:(.*)\{(.*)\})?(.*)", pattern).groups()
        named |= {(before or "") + word + after for word in (braced or "").split(",")}
    assert named == set(ALIASES)


def test_every_test_of_the_reliability_table_exists_and_is_marked_as_it_says():
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "`test_" in line]
    assert len(rows) >= 16
    decorators = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(tree := ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                everywhere = [
                    ast.unparse(each) for each in tree.body if "pytestmark" in ast.unparse(each)
                ]
                decorators[node.name] = [*map(ast.unparse, node.decorator_list), *everywhere]
    for name, star in re.findall(r"`(test_\w+)`(\*?)", page):
        assert name in decorators, f"docs/reliability.md names {name}, which is no test"
        is_fault = any("mark.faults" in text for text in decorators[name])
        assert is_fault == bool(star), f"{name}: a star means `make test-faults`"

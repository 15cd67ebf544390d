"""The benchmark of GPUs without one: it runs small, and its estimates stand alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.cards import Card
from benchmarks.counted import frames_per_second, kept_counts
from benchmarks.gpu.__main__ import SECTIONS, main, section
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import Case, DeviceLost, Quantity, Row, Section, run
from benchmarks.gpu.device import Device
from benchmarks.gpu.report import Report, line, table
from benchmarks.sizes import PUBLISHED, SMALL, Size
from ttt.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "ray pydantic matplotlib optuna tensorboard onnx onnxruntime"
"""What is not carried to a bare machine."""
ON_BARE_MACHINE = f"""
import importlib, sys
from importlib.machinery import PathFinder

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT.split()}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Others
from benchmarks.gpu.__main__ import SECTIONS, main

for _, *places in SECTIONS.values():
    for place in places:
        importlib.import_module("benchmarks.gpu." + place.partition(":")[0])
sys.exit(main(["--small", "--output", *sys.argv[1:]]))
"""
CHEAPEST = ["state", "ttt"]


@pytest.mark.timeout(660)
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(CHEAPEST, id="the cheapest sections"),
        pytest.param(list(SECTIONS), id="all sections", marks=pytest.mark.faults),
    ],
)
def test_it_runs_small_with_the_light_packages(tmp_path: Path, names: list[str]) -> None:
    """What every section imports is there; all sections take a minute of one core, and more where
    others want it too."""
    command = [sys.executable, "-c", ON_BARE_MACHINE, str(tmp_path), "--only", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    facts, *rows = map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert {"device", "torch", "commit", "date", "size"} <= facts["facts"].keys()
    assert [*dict.fromkeys(row["section"] for row in rows)] == names
    for row in rows:
        told = row["what"].endswith((": time", ": a step", ": the state")) or row["unit"] in (
            "frames/s",
            "audio s/s",
        )
        if torch.cuda.is_available() or told:
            assert row["measured"] > 0, row
        else:  # what only a GPU tells
            assert (row["measured"], row["ratio"], row["reason"]) == (None, None, "not run"), row
    printed = (tmp_path / "gpu.md").read_text()
    assert printed in done.stdout
    assert printed.count("\n| ") == len(rows) + 1


def test_the_readme_shows_every_row_beside_its_estimate() -> None:
    rows: list[Row] = []
    bench = Bench(PUBLISHED, None)
    for name in SECTIONS:
        run(section(name), bench, time.monotonic() + 600, rows.append)
    assert {row.reason for row in rows} == {"not run"}
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert "\n".join(table(rows)) in page


def test_an_estimate_is_the_longer_of_launches_and_bytes() -> None:
    slow = Bench(PUBLISHED, None, Card(bytes_per_second=1e12, operations_per_second=1e12))
    counted = {"launches": 1000, "gigabytes": 18.0}
    assert slow.least(counted) == pytest.approx(18e9 / 0.9e12)
    assert slow.moving(counted) == slow.least(counted)
    assert Bench(PUBLISHED, None).least(counted) == pytest.approx(6e-3)
    passes = kept_counts()["passes"]
    (a_pass,) = (
        row
        for row in passes["passes"]
        if (row["ttt"], row["text"], row["batch"], row["chunk"]) == (True, "pad", 4, 64)
    )
    by_hand = 256 / (
        max(a_pass["launches"] * 6e-6, a_pass["gigabytes"] / 3000)
        + passes["depformer"]["256"]["launches"] * 6e-6
    )
    found = Bench(PUBLISHED, None).frames_per_second(True, "pad", 4, 64)
    assert found == pytest.approx(by_hand)
    assert found == frames_per_second(a_pass, 256, passes["depformer"]["256"], 256)
    assert Bench(SMALL, None).least(Bench(SMALL, None).counted("known_text")) is None


# -- what fails is a row ---------------------------------------------------------------------------


def _rows(*measures: Callable[[], list[float | None]], size: Size = SMALL) -> list[Row]:
    """The rows of a section of such cases."""

    def cases(bench: Bench) -> Iterator[Case]:
        for number, measure in enumerate(measures):
            yield Case((Quantity(f"case {number}", "s", 2.0),), measure)

    rows: list[Row] = []
    made = Section("made", -1.0, cases)
    run(made, Bench(size, Device()), time.monotonic() + 60, rows.append)
    return rows


def _failing(error: Exception) -> Callable[[], list[float | None]]:
    def measure() -> list[float | None]:
        raise error

    return measure


def test_a_case_that_fails_says_why_and_the_next_goes_on() -> None:
    rows = _rows(
        _failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        _failing(ModuleNotFoundError("No module named 'snac'")),
        _failing(UserError("step 3: too much")),
        lambda: [3.0],
        lambda: [None],
    )
    assert [row.reason for row in rows] == [
        "out of memory: CUDA out of memory. Tried to allocate 2 GiB",
        "ModuleNotFoundError: No module named 'snac'",
        "UserError: step 3: too much",
        None,
        "not run",
    ]
    assert [bool(row.failed) for row in rows] == [True, True, True, False, False]
    assert "torch.OutOfMemoryError" in (rows[0].failed or "")
    assert (rows[3].measured, rows[3].ratio) == (3.0, 1.5)
    assert line(rows[3]) == "| case 3 | 2 s | 3 s | 1.50 |"
    assert line(rows[1]) == "| case 1 | 2 s | ModuleNotFoundError: No module named 'snac' |  |"


def test_no_case_begins_after_its_time() -> None:
    rows = _rows(lambda: [1.0], size=PUBLISHED)
    assert [row.reason for row in rows] == ["not run: its time was over"]


def test_a_lost_device_ends_the_run_and_is_told() -> None:
    rows: list[Row] = []

    def cases(bench: Bench) -> Iterator[Case]:
        yield Case((Quantity("first", "s"),), _failing(RuntimeError("CUDA error: unspecified")))
        raise AssertionError("nothing comes after it")

    with pytest.raises(DeviceLost, match="unspecified"):
        run(Section("made", 60, cases), Bench(SMALL, Device()), time.monotonic() + 60, rows.append)
    assert [row.reason for row in rows] == ["RuntimeError: CUDA error: unspecified"]


def test_rows_are_in_the_file_before_the_next_is_measured(tmp_path: Path) -> None:
    report = Report(tmp_path, {"device": "none"})
    report.record(Row("made", "a", "ms", 4.0, 1234.5))
    written = [json.loads(each) for each in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert written[0] == {"facts": {"device": "none"}}
    assert (written[1]["measured"], written[1]["ratio"]) == (1234.5, 1234.5 / 4)
    assert report.finish().splitlines()[-1] == "| a | 4 ms | 1,234 ms | 308.62 |"


def test_the_table_is_of_all_runs_of_a_folder(tmp_path: Path) -> None:
    facts = {"device": "none", "size": "small"}
    first = Report(tmp_path, {**facts, "date": "Monday"})
    for row in (
        Row("profile", "a", "ms", 4.0, 8.0),
        Row("ttt", "a", "s", 1.0, None, "not run: its time was over"),
        Row("ttt", "b", "s", 1.0, 2.0),
    ):
        first.record(row)
    first.finish()
    second = Report(tmp_path, {**facts, "date": "Tuesday"})
    second.record(Row("ttt", "a", "s", 1.0, 3.0))
    assert second.finish().splitlines() == [
        "device: none, size: small, date: Monday",
        "",
        "device: none, size: small, date: Tuesday",
        "",
        "| what | estimate | measured | ratio |",
        "|---|---|---|---|",
        "| a | 4 ms | 8 ms | 2.00 |",
        "| a | 1 s | 3 s | 3.00 |",
        "| b | 1 s | 2 s | 2.00 |",
    ]
    assert (tmp_path / "gpu.md").read_text() == second.finish() + "\n"
    assert [row.what for row in second.rows] == ["a"]


@pytest.mark.parametrize("other", [{"device": "H100"}, {"size": "published"}])
def test_rows_of_another_device_or_size_are_refused(tmp_path: Path, other: dict[str, str]) -> None:
    facts = {"device": "none", "size": "small"}
    Report(tmp_path, facts).finish()
    before = (tmp_path / "gpu.jsonl").read_text()
    ((name, value),) = other.items()
    with pytest.raises(
        UserError, match=rf"rows of {name} {facts[name]}, not {value}: give another"
    ):
        Report(tmp_path, {**facts, **other})
    assert (tmp_path / "gpu.jsonl").read_text() == before


def test_a_rehearsal_does_not_go_into_a_folder_of_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu.jsonl").write_text('{"facts": {"device": "H100", "size": "published"}}\n')
    assert main(["--small", "--only", "state", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/gpu.jsonl has rows of device")

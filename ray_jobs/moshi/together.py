"""Chapters and pairs with the same models: two runs in one folder, and what is said of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray_jobs.moshi.all_config import EvaluateAllConfig
from ray_jobs.moshi.chapters import plan as chapters_plan
from ray_jobs.moshi.chapters import run as chapters_run
from ray_jobs.moshi.evaluation import write_results
from ray_jobs.moshi.pairs import plan as pairs_plan
from ray_jobs.moshi.pairs import run as pairs_run
from ray_jobs.reports.page import read_pictures
from ray_jobs.reports.together import build_report
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation, find_user_error
from ttt import records, storage
from ttt.errors import UserError

_PLANS = {"chapters": chapters_plan, "pairs": pairs_plan}
_RUNS = {"chapters": chapters_run, "pairs": pairs_run}


@dataclass(frozen=True)
class Plan:
    """What both evaluations will do."""

    config: EvaluateAllConfig
    parts: dict[str, Any]
    """chapters and pairs, as far as they are wanted, each with a plan of its own."""


def make_plan(config: EvaluateAllConfig) -> Plan:
    """Plan both. Raises UserError as they do."""
    wanted = {name: getattr(config, name) for name in _PLANS}
    parts = {name: _PLANS[name].make_plan(part) for name, part in wanted.items() if part}
    return Plan(config, parts)


def describe(plan: Plan) -> str:
    """The plans of both, in words."""
    return "\n".join(_PLANS[name].describe(part) for name, part in plan.parts.items())


def execute(plan: Plan, invocation: Invocation) -> None:
    """Evaluate chapters, then pairs; what one of them lacks does not keep the other from running.

    Raises UserError at the end, with everything written, when one of them failed.
    """
    config, problems = plan.config, []
    with run_folder.claim(config.output, config, resume=invocation.resume) as begin:
        begin()
        for name, part in plan.parts.items():
            begun = bool(run_folder.content(part.config.output))
            try:
                _RUNS[name].evaluate(part, replace(invocation, resume=begun))
            except UserError as error:
                # One of a worker says its sentence inside; outside it is a whole traceback.
                problems.append(f"{name}: {find_user_error(error)}")
        _write_together(storage.local_path(config.output))
    if problems:
        raise UserError("; ".join(problems))


def rescore(folder: str) -> None:
    """Compute everything of a run again from its records."""
    begun = [name for name in _RUNS if (Path(folder) / name / "run.json").exists()]
    if not begun:
        raise UserError(f"{folder}: not the folder of evaluate_all, neither chapters nor pairs")
    for name in begun:
        write_results(_RUNS[name].JOB, Path(folder) / name)
    _write_together(Path(folder))


def _write_together(folder: Path) -> None:
    """One summary.json, legacy.json and report.html out of what the parts have written."""
    written = [name for name in _RUNS if (folder / name / "summary.json").exists()]
    if not written:
        return
    summary = {name: records.read_json(folder / name / "summary.json") for name in written}
    legacy = {name: records.read_json(folder / name / "legacy.json") for name in written}
    records.write_json(folder / "summary.json", summary)
    records.write_json(folder / "legacy.json", {**_figures(legacy), **legacy})
    media, drawn = pairs_run.media(folder / "pairs"), read_pictures(folder / "chapters")
    page = build_report(summary, media, drawn)
    storage.write_bytes(folder / "report.html", page.encode())
    print(f"report: {folder}/report.html", flush=True)


def _figures(legacy: dict[str, Any]) -> dict[str, Any]:
    """The original's keys, which it wrote side by side; names, warnings and models stay apart."""
    return {
        key: value
        for part in legacy.values()
        for key, value in part.items()
        if value is None or isinstance(value, int | float)
    }

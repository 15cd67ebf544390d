r"""Moshi with and without TTT on everything: whole chapters, and benchmarks made of pairs.

    python -m ray_jobs.evaluate_all --config configs/evaluate_all.yaml \
        chapters.data.root=FOLDER pairs.tasks.swuggy.root=FOLDER model.ttt=FOLDER output=runs/all
    python -m ray_jobs.evaluate_all --rescore runs/all

Killed at any moment and run again with --resume, it hears only what has no record yet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_jobs.moshi.all_config import EvaluateAllConfig
from ray_jobs.moshi.chapters import run as chapter_pool
from ray_jobs.moshi.pairs import run as pair_pool
from ray_jobs.moshi.together import Plan, describe, make_plan
from ray_jobs.reports.page import read_pictures
from ray_jobs.reports.together import build_report
from ray_jobs.runtime import cli, run_folder
from ttt import records, storage
from ttt.errors import UserError

_POOLS = {"chapters": chapter_pool, "pairs": pair_pool}


def execute(plan: Plan, invocation: cli.Invocation) -> None:
    """Evaluate chapters, then pairs; what one of them lacks does not keep the other from running.

    Raises UserError at the end, with everything written, when one of them failed.
    """
    config, problems = plan.config, []
    with run_folder.claim(config.output, config, resume=invocation.resume) as begin:
        begin()
        for name, part in plan.parts.items():
            begun = bool(run_folder.content(part.config.output))
            try:
                _POOLS[name].evaluate(part, replace(invocation, resume=begun))
            except UserError as error:
                # One of a worker says its sentence inside; outside it is a whole traceback.
                problems.append(f"{name}: {cli.find_user_error(error)}")
        _write_together(storage.local_path(config.output))
    if problems:
        raise UserError("; ".join(problems))


def rescore(folder: str) -> None:
    """Compute everything of a run again from its records."""
    begun = [name for name in _POOLS if (Path(folder) / name / "run.json").exists()]
    if not begun:
        raise UserError(f"{folder}: not the folder of evaluate_all, neither chapters nor pairs")
    for name in begun:
        _POOLS[name].write_results(Path(folder) / name)
    _write_together(Path(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    again = "recompute a run from its records and stop"
    return cli.run(
        EvaluateAllConfig,
        plan=make_plan,
        describe=describe,
        execute=execute,
        doc=__doc__ or "",
        argv=argv,
        actions=[cli.Action("--rescore", ("RUN",), again, rescore)],
    )


def _write_together(folder: Path) -> None:
    """One summary.json, legacy.json and report.html out of what the parts have written."""
    written = [name for name in _POOLS if (folder / name / "summary.json").exists()]
    if not written:
        return
    summary = {name: records.read_json(folder / name / "summary.json") for name in written}
    legacy = {name: records.read_json(folder / name / "legacy.json") for name in written}
    records.write_json(folder / "summary.json", summary)
    records.write_json(folder / "legacy.json", {**_figures(legacy), **legacy})
    media, drawn = pair_pool.media(folder / "pairs"), read_pictures(folder / "chapters")
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


if __name__ == "__main__":
    sys.exit(main())

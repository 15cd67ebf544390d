"""What a training in Moshi leaves to be read: its summary and page, and those beside a control."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from ray_jobs.reports import training
from ttt import storage
from ttt.eval.training.compare import compare_trainings, read_training
from ttt.eval.training.summary import SUMMARY_FILE, summarize_training
from ttt.records import write_json


def write_report(run: str) -> None:
    """RUN/summary.json and RUN/report.html of a run, which may still be going on; tells of them.

    Raises UserError where there is no training in Moshi that has saved a checkpoint.
    """
    summary = summarize_training(run)
    _write(run, {**summary, "verdict": training.verdict(summary)}, training.build_report)


def write_comparison(run: str, control: str, output: str | None) -> None:
    """The same of a run beside its control.

    Args:
        output: the folder for them; None is one below the run, in comparisons/.

    Raises:
        UserError: one has no summary of a finished training, or they differ in more than what is
            trained.
    """
    summary = compare_trainings(read_training(run), read_training(control))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"against-{PurePath(control).name}")
    folder = output or storage.join(run, "comparisons", name)
    made = {**summary, "verdict": training.comparison_verdict(summary)}
    _write(folder, made, training.build_comparison)


def _write(
    folder: str, summary: Mapping[str, Any], page: Callable[[Mapping[str, Any]], str]
) -> None:
    write_json(storage.join(folder, SUMMARY_FILE), summary)
    storage.write_bytes(storage.join(folder, "report.html"), page(summary).encode())
    print(summary["verdict"]["heading"])
    print(f"report: {storage.join(folder, 'report.html')}")

"""What a sweep leaves: best.yaml, trials.csv, trials.json, report.html and export.

All of it is computed from the trials' folders, so that a sweep that ended early, or goes on later,
has the same files.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from ray_jobs.config.load import dump_yaml
from ray_jobs.decoder.train.exports import export_best
from ray_jobs.decoder.train.plan import plan_training
from ray_jobs.decoder.train.setup import Setup
from ray_jobs.reports.sweep import build_report
from ray_jobs.sweep import space as tune_space
from ray_jobs.sweep import trials as tune_trials
from ray_jobs.sweep.config import TuneConfig
from ray_jobs.sweep.importance import importance
from ray_jobs.sweep.trials import Reached
from ttt import records, storage
from ttt.errors import UserError


def write(sweep: TuneConfig, setup: Setup, ended_early: str | None) -> None:
    """Write everything into the sweep's folder and print the result in words.

    `setup` is that of trial 0; all trials share its codec and validation. Raises UserError when no
    trial has a validated checkpoint (trials.csv then says why), and at the very end when a trial
    has failed.
    """
    results = tune_trials.every_reached(sweep.run)
    _write(sweep, "trials.csv", _table(sweep, results))
    best = tune_trials.best_of(results)
    if best is None:
        reasons = _first(f"{result.state} {result.why}" for result in results)
        raise UserError(
            f"{sweep.run}: no trial has a validated checkpoint ({reasons}); trials.csv names them "
            f"all"
        )
    assert setup.validation is not None, "a sweep's configuration has one"
    windows = setup.validation.n_windows
    summary = summarise(sweep, results, best, windows, ended_early)
    records.write_json(storage.join(sweep.run, "trials.json"), summary)
    _write(sweep, "best.yaml", _best_yaml(sweep, best))
    _write(sweep, "report.html", build_report(summary))
    training = tune_space.trial_config(sweep, best.trial.values, best.place)
    plan = plan_training(training, setup.codec)
    export = export_best(plan, storage.join(sweep.run, "export"))
    verdict = summary["verdict"]
    if ended_early:
        print(f"ended early: {ended_early}; --resume goes on")
    print(f"{verdict['heading']}. {' '.join(verdict['sentences'])}")
    diverged = [result.why for result in results if result.state == "diverged"]
    if diverged:
        print(f"{len(diverged)} of {len(results)} trials diverged ({_first(diverged)})")
    print(f"best configuration: {storage.join(sweep.run, 'best.yaml')}")
    print(f"best decoder: {export}")
    print(f"report: {storage.join(sweep.run, 'report.html')}", flush=True)
    failed = [result.why for result in results if result.state == "failed"]
    if failed:
        raise UserError(
            f"{sweep.run}: {len(failed)} of {len(results)} trials failed ({_first(failed)}); "
            f"the result is that of the others, and --resume tries failed ones again"
        )


def _first(reasons: Iterable[str]) -> str:
    """The first different reasons, each in the length of a line or two."""
    different = list(dict.fromkeys(textwrap.shorten(r, 200, placeholder=" ...") for r in reasons))
    return "; ".join([*different[:3], *(["..."] if len(different) > 3 else [])])


def summarise(
    sweep: TuneConfig,
    results: Sequence[Reached],
    best: Reached,
    windows: int,
    ended_early: str | None,
) -> dict[str, Any]:
    """What trials.json holds and the report shows."""
    measured = [result for result in results if result.loss is not None]
    settings = {key: [_word(v) for v in _column(sweep, measured, key)] for key in sweep.space}
    shares = importance([result.loss or 0.0 for result in measured], settings)
    return {
        "verdict": verdict(results, best, windows),
        "best": best.trial.number,
        "ended_early": ended_early,
        "validation_windows": windows,
        "search": sweep.search.kind,
        "scheduler": sweep.scheduler.kind,
        "space": {
            key: {
                "words": words,
                "log": sweep.space[key].loguniform is not None,
                "choices": sweep.space[key].choice,
            }
            for key, words in tune_space.in_words(sweep).items()
        },
        "importance": {key: dataclasses.asdict(share) for key, share in shares.items()},
        "trials": [_line(sweep, result) for result in results],
        "provenance": records.provenance(sweep),
    }


def verdict(results: Sequence[Reached], best: Reached, windows: int) -> dict[str, Any]:
    """Whether the best trial beats the configuration as it stands, computed from both losses."""
    default = results[0]
    caution = (
        f"Lowest validation loss of one training each, on {windows} windows; differences as small "
        f"as those between seeds say nothing (let seed vary to see them)."
    )
    if default.loss is None or best.loss is None:
        heading = "No comparison with the default configuration"
        why = f"Trial 0 has no validation loss: {default.state} {default.why}".strip() + "."
        return {"kind": "mixed", "heading": heading, "sentences": [why, caution]}
    if best.trial.number == 0:
        others = tune_trials.best_of(results[1:])
        heading = "No trial beats the default configuration"
        what = f"Its validation loss is {default.loss:.4f}" + (
            f"; the best other one, trial {others.trial.number}, has {others.loss:.4f}."
            if others is not None
            else "."
        )
        return {"kind": "mixed", "heading": heading, "sentences": [what, caution]}
    number, change = best.trial.number, best.loss / default.loss - 1
    heading = f"Trial {number} beats the default configuration"
    what = (
        f"Its validation loss is {best.loss:.4f}, the default's {default.loss:.4f} ({change:+.1%})."
    )
    sentences = [what, caution]
    if default.state != "finished":
        sentences.insert(1, f"The default's training is {default.state} at step {default.step}.")
        return {"kind": "mixed", "heading": heading, "sentences": sentences}
    return {"kind": "good", "heading": heading, "sentences": sentences}


def _best_yaml(sweep: TuneConfig, best: Reached) -> str:
    folder = storage.join(sweep.run, "best")
    config = tune_space.trial_config(sweep, best.trial.values, folder)
    number, step = best.trial.number, best.best_step
    return (
        f"# Trial {number} of a sweep: validation loss {best.loss} at step {step}.\n"
        f"# python -m ray_jobs.train_decoder --config THIS_FILE trains it again.\n"
    ) + dump_yaml(config)


def _table(sweep: TuneConfig, results: Sequence[Reached]) -> str:
    lines = [_line(sweep, result) for result in results]
    plain = ("number", "state", "why", "loss", "best_step", "step", "epochs")
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow([*plain, *sweep.space, "copied"])
    for line in lines:
        values = (_word(line["values"][key]) for key in sweep.space)
        cells = ["" if line[name] is None else line[name] for name in plain]
        table.writerow([*cells, *values, _word(line["copied"]) if line["copied"] else ""])
    return file.getvalue()


def _line(sweep: TuneConfig, result: Reached) -> dict[str, Any]:
    trial = result.trial
    varied = {key: tune_space.value_of(sweep, key, trial.values) for key in sweep.space}
    return {
        "number": trial.number,
        "state": result.state,
        "why": result.why,
        "loss": result.loss,
        "best_step": result.best_step,
        "step": result.step,
        "epochs": result.epochs,
        "values": {**varied, **trial.values},
        "copied": list(trial.copied),
        "curve": [list(point) for point in result.curve],
    }


def _column(sweep: TuneConfig, results: Sequence[Reached], key: str) -> list[Any]:
    return [tune_space.value_of(sweep, key, result.trial.values) for result in results]


def _word(value: Any) -> Any:
    """A number as it is, everything else in one line of JSON."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number else json.dumps(value)


def _write(sweep: TuneConfig, name: str, text: str) -> None:
    storage.write_bytes(storage.join(sweep.run, name), text.encode())

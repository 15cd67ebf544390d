"""Where a page's numbers come from, as pairs of name and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttt.eval.pairs import task_title

Facts = list[tuple[str, str]]


def of_chapters(run: Mapping[str, Any]) -> Facts:
    """What made a run over chapters, from its run.json."""
    return [
        *_models(run),
        ("streams", _listed(run["streams"])),
        ("chunk, batch", f"{run['chunk']} steps, {run['batch']} chapters"),
        *_every_run(run),
    ]


def of_pairs(run: Mapping[str, Any]) -> Facts:
    """What made a run over pairs, from its run.json."""
    settings = [
        (f"streams {s['name']}", f"text {s['text']}, other {s['other']}, {s['voice']}")
        for s in run["settings"]
    ]
    tasks = [
        (
            task_title(task["task"]),
            f"{task['pairs']:,} of {task['found']:,} pairs, {task['pairs_sha256'][:16]}",
        )
        for task in run["tasks"]
    ]
    batch = f"{run['batch_items']} recordings, {run['batch_frames']:,} frames at most"
    chunk = ("chunk, batch", f"{run['chunk']} steps; {batch}")
    return [*_models(run), *settings, *tasks, chunk, *_every_run(run)]


def of_job(made: Mapping[str, Any]) -> Facts:
    """What every job writes into provenance.json."""
    return [
        ("Configuration", made["config_digest"]),
        ("Commit", str(made["git_commit"])),
        ("Made", made["created"]),
        ("Versions", _listed(made["versions"])),
    ]


def _models(run: Mapping[str, Any]) -> Facts:
    codec = f"{run['mimi']['name']}, weights {run['mimi']['weights_sha256'][:16]}"
    return [*((f"model {m['model']}", _identity(m)) for m in run["models"]), ("codec", codec)]


def _every_run(run: Mapping[str, Any]) -> Facts:
    made = run["provenance"]
    return [
        ("device, precision", f"{run['device']}, {run['dtype']}"),
        ("seed", str(run["seed"])),
        *((key, str(made[key])) for key in ("created", "git_commit", "config_digest")),
        ("versions", _listed(made["versions"])),
    ]


def _identity(model: Mapping[str, Any]) -> str:
    """What a model is, in one line."""
    parts = [model["source"], f"weights {model['fingerprint']}", f"window {model['context']:,}"]
    if model["ttt"] is not None:
        parts.append(f"TTT {_listed(model['ttt'])}")
    if model["controls"]:
        parts.append(f"controls {_listed(model['controls'])}")
    return "; ".join(parts)


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in fields.items())

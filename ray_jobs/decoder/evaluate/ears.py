"""The listening page of a comparison of two decoders, and what its listeners' answers say.

OUTPUT/listening.html is for the listeners; OUTPUT/listening_key.json says whose each version is
and stays; OUTPUT/preference.json is what `--score` made of the answers.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.reports.between import build_report
from ray_jobs.reports.examples import read_examples
from ray_jobs.reports.listening import build_listening_page
from ray_jobs.reports.words import counted
from ttt import records, storage
from ttt.errors import UserError
from ttt.snac.evaluation.listening import make_listening
from ttt.snac.evaluation.preference import read_key, score

PAGE, KEY, PREFERENCE = "listening.html", "listening_key.json", "preference.json"
SUMMARY, RESULTS = "summary.json", "results.jsonl"


def write_listening(
    output: Path,
    clips: Mapping[str, Mapping[str, np.ndarray]],
    decoders: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Write page and key; returns what summary.json says of them.

    An evaluation that goes on makes the page that it made before.

    Args:
        clips: clip id -> letter -> int16 [T] at 48 kHz.
        decoders: letter -> what is known of the decoder.
    """
    key = output / KEY
    secret = read_key(key)["secret"] if key.exists() else secrets.token_hex(16)
    listening = make_listening(clips, secret)
    if listening.trials:
        records.write_json(key, listening.key(decoders))
        storage.write_bytes(output / PAGE, build_listening_page(listening).encode())
    return {
        "page": listening.page if listening.trials else None,
        "clips": len(listening.trials),
        "left_out": dict(listening.left_out),
        "residual_lu": listening.residual_lu,
    }


def preference_of(output: Path, page: str | None) -> dict[str, Any] | None:
    """What listeners of this page were found to prefer, if any were asked."""
    path = output / PREFERENCE
    found = records.read_json(path) if path.exists() else None
    return found if found is not None and found["page"] == page else None


def score_answers(*files: str, output: str | None, dry_run: bool = False) -> None:
    """Print and write what the listeners' answers say, and put it into the report.

    With `dry_run` all is checked, and what would be written is said and not written.
    """
    if output is None:
        raise UserError("--score needs output=FOLDER, the evaluation that made the listening page")
    if not files:
        raise UserError("--score needs the files that listeners saved from the listening page")
    folder = storage.local_path(output)
    found = score(read_key(folder / KEY), [Path(file) for file in files])
    if missing := [name for name in (SUMMARY, RESULTS) if not (folder / name).exists()]:
        raise UserError(
            f"{folder / missing[0]}: not there, the evaluation stopped before its end; run it "
            "again with --resume and then score"
        )
    if dry_run:
        print(
            f"{counted(found['answers'], 'answer')} from {', '.join(files)} can be scored; "
            f"{folder / PREFERENCE} and {folder}/report.html would be written"
        )
        return
    summary, clips = records.read_json(folder / SUMMARY), records.read_jsonl(folder / RESULTS)
    records.write_json(folder / PREFERENCE, found)
    page = build_report(summary, list(clips), read_examples(folder / "examples"), found)
    storage.write_bytes(folder / "report.html", page.encode())
    verdict = found["verdict"]
    print(f"{verdict['heading']}: {' '.join(verdict['sentences'])}")
    print(f"report: {folder}/report.html")

"""An evaluation of several decoders: each measured as if it were alone, then compared by clip.

OUTPUT/A, OUTPUT/B and so on hold what an evaluation of that decoder alone would have written.
OUTPUT/summary.json has the paired comparisons with their verdicts, comparison.md the same in words,
results.jsonl a line per clip, report.html the page; examples/ the passages that it shows, as FLAC.
Of two decoders there is a blind comparison by ear, too (`ray_jobs.decoder.evaluate.ears`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ray_jobs.decoder.evaluate.ears import (
    KEY,
    PAGE,
    RESULTS,
    SUMMARY,
    preference_of,
    write_listening,
)
from ray_jobs.decoder.evaluate.passages import by_lsd_ratio
from ray_jobs.decoder.evaluate.plan import Plan
from ray_jobs.decoder.evaluate.run import Evaluated, measure_one, require_coverage
from ray_jobs.decoder.evaluate.run import evaluate as evaluate_one
from ray_jobs.decoder.evaluate.several import SeveralPlan
from ray_jobs.reports.between import build_report
from ray_jobs.reports.examples import Example, write_examples
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ttt import records, storage
from ttt.snac.evaluation.between import markdown, summarize_between
from ttt.snac.evaluation.systems import BASELINE, CEILING, OURS, TRUE
from ttt.snac.evaluation.visqol import spread_evenly

BESIDE = (BASELINE, CEILING)
"""Systems that are the same whatever the decoder, shown beside them."""


def evaluate(plan: Plan | SeveralPlan, invocation: Invocation) -> None:
    """Measure one decoder, or several and what lies between them; with --resume, go on.

    Raises UserError before Ray starts for what does not fit, and at the end, with everything
    written, when fewer clips than `min_coverage` were measured with every decoder.
    """
    if isinstance(plan, Plan):
        evaluate_one(plan, invocation)
        return
    config = plan.config
    output = storage.local_path(config.output)
    if invocation.resume:
        run_folder.refuse_changed_config(config, output)
    with run_folder.claim(config.output, config, resume=invocation.resume) as begin:
        begin()
        by_ear = config.report.listening_clips if len(plan.plans) == 2 else 0
        found = _measure_each(plan, invocation, max(config.report.examples, by_ear))
        summary, clips = _summarize(plan, found)
        examples = _examples(found, clips, config.report.examples)
        heard = _by_ear(found, by_ear)
        decoders = {
            letter: {key: each[key] for key in ("name", "sha256")}
            for letter, each in summary["decoders"].items()
        }
        summary["listening"] = write_listening(output, heard, decoders)
        records.write_json(output / SUMMARY, summary)
        lines = "".join(json.dumps(records.finite(clip), allow_nan=False) + "\n" for clip in clips)
        storage.write_bytes(output / RESULTS, lines.encode())
        storage.write_bytes(output / "comparison.md", markdown(summary).encode())
        write_examples(output / "examples", examples)
        preference = preference_of(output, summary["listening"]["page"])
        page = build_report(summary, clips, examples, preference)
        storage.write_bytes(output / "report.html", page.encode())
    for each in summary["comparisons"]:
        verdict = each["verdict"]
        print(f"{verdict['heading']}: {each['names']} {' '.join(verdict['sentences'])}")
    print(f"report: {config.output}/report.html", flush=True)
    if summary["listening"]["page"] is not None:
        told = f"{config.output}/{PAGE} (send it; keep {KEY}, which scores the answers)"
        print(f"blind comparison by ear: {told}", flush=True)
    require_coverage(config, summary["data"]["compared"], summary["data"]["wanted"])


def _measure_each(plan: SeveralPlan, invocation: Invocation, passages: int) -> dict[str, Evaluated]:
    """Letter -> what an evaluation of that decoder found, with the same passages of each."""
    found: dict[str, Evaluated] = {}

    def choose(measured: Sequence[str]) -> Sequence[str]:
        if not found:
            return [measured[place] for place in spread_evenly(len(measured), passages)]
        wanted = next(iter(found.values())).passages
        return [clip_id for clip_id in measured if clip_id in wanted]

    for letter, each in plan.plans.items():
        print(f"{letter}: {each.decoder.name}", flush=True)
        folder = each.config.output
        before = run_folder.content(folder)
        try:
            its = replace(invocation, resume=bool(before))
            found[letter] = measure_one(each, its, choose)
        except BaseException:
            if not run_folder.content(folder):  # Refused: the next start need not be a --resume.
                shutil.rmtree(storage.local_path(folder), ignore_errors=True)
            raise
    return found


def _summarize(
    plan: SeveralPlan, found: Mapping[str, Evaluated]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Of summary.json, and a line for each clip that every decoder has."""
    config, first = plan.config, next(iter(found))
    lines = {
        letter: {line["clip_id"]: line for line in each.lines} for letter, each in found.items()
    }
    clips = [
        {
            **{key: line.get(key) for key in ("clip_id", "seconds", "speaker")},
            "systems": {
                **{letter: its[clip_id]["systems"][OURS] for letter, its in lines.items()},
                **{name: line["systems"][name] for name in BESIDE},
            },
        }
        for clip_id, line in lines[first].items()
        if all(clip_id in its for its in lines.values())
    ]
    compared = summarize_between(
        [clip["systems"] for clip in clips],
        {letter: each.summary["decoder"]["name"] for letter, each in found.items()},
        [clip["speaker"] for clip in clips],
        seed=config.bootstrap.seed,
        resamples=config.bootstrap.resamples,
        beside=BESIDE,
    )
    decoders = {
        letter: {**each.summary["decoder"], "verdict": each.summary["verdict"]["heading"]}
        for letter, each in found.items()
    }
    for each in compared["comparisons"]:
        each["verdict"]["sentences"] += _cautions(decoders, each["first"], each["second"])
    wanted = len(plan.first.items)
    return {
        "decoders": decoders,
        "data": {
            "name": plan.first.data,
            "kind": plan.first.kind,
            "wanted": wanted,
            "compared": len(clips),
            "coverage": len(clips) / max(wanted, 1),
            "seconds": sum(clip["seconds"] for clip in clips),
            "left_out": _left_out(found),
        },
        **compared,
        "bootstrap": config.bootstrap.to_dict(),
        "provenance": records.provenance(config),
    }, clips


def _cautions(decoders: Mapping[str, Mapping[str, Any]], *pair: str) -> tuple[str, ...]:
    """What the numbers between two decoders do not say."""
    told = [f"{letter}: {decoders[letter]['verdict']}" for letter in pair]
    cautions = [f"Each against resampling, on all clips that it measured: {'; '.join(told)}."]
    with_floor = [letter for letter in pair if decoders[letter]["noise_floor"] is not None]
    if len(with_floor) == 1:
        cautions.append(
            f"Only {with_floor[0]} has a noise floor, and constant noise alone lowers LSD; "
            "noise_floor=false compares both without."
        )
    return tuple(cautions)


def _left_out(found: Mapping[str, Evaluated]) -> list[dict[str, str]]:
    """Clips that some decoder lacks, with the reason; whose it is where only some lack it."""
    reasons: dict[str, dict[str, str]] = {}
    for letter, each in found.items():
        for entry in each.summary["data"]["left_out"]:
            reasons.setdefault(entry["clip_id"], {})[letter] = entry["reason"]
    return [
        {
            "clip_id": clip_id,
            "reason": next(iter(its.values()))
            if len(its) == len(found) and len(set(its.values())) == 1
            else "; ".join(f"{letter}: {reason}" for letter, reason in its.items()),
        }
        for clip_id, its in sorted(reasons.items())
    ]


def _by_ear(found: Mapping[str, Evaluated], count: int) -> dict[str, dict[str, np.ndarray]]:
    """Clip -> letter -> passage, of clips spread evenly over those with passages of every one."""
    first = next(iter(found.values()))
    there = [
        clip_id
        for clip_id in first.passages
        if all(clip_id in each.passages for each in found.values())
    ]
    return {
        there[place]: {
            letter: each.passages[there[place]].audio[OURS] for letter, each in found.items()
        }
        for place in spread_evenly(len(there), count)
    }


def _examples(
    found: Mapping[str, Evaluated], clips: Sequence[Mapping[str, Any]], count: int
) -> list[Example]:
    """Passages in every decoder's version, by LSD of the last decoder over the first's."""
    first, last = next(iter(found)), list(found)[-1]
    there = [clip for clip in clips if all(clip["clip_id"] in f.passages for f in found.values())]
    ranked, ratios = by_lsd_ratio(there, last, first)
    examples = []
    for place in spread_evenly(len(ranked), count):
        clip_id = ranked[place]["clip_id"]
        passage = found[first].passages[clip_id]
        audio = {name: passage.audio[name] for name in (TRUE, *BESIDE)}
        audio |= {letter: each.passages[clip_id].audio[OURS] for letter, each in found.items()}
        size = ratios[clip_id]
        told = f"LSD of {last} {size:.2f} times {first}'s" if math.isfinite(size) else "no LSD"
        examples.append(Example(clip_id, told, passage.start_seconds, audio))
    return examples

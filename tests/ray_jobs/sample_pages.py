"""What the pages are made of, without a model or Ray: runs of arithmetic and made-up trials."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.moshi.train.report import write_comparison, write_report
from ray_jobs.reports.examples import Example
from ray_jobs.reports.listening import build_listening_page
from tests.ttt.eval import finished_run, scored_pairs
from tests.ttt.eval.training_runs import LORA, write_training
from tests.ttt.snac.test_verdict import _rows
from ttt.audio import flac_bytes
from ttt.eval.chapters.summary import CHAPTERS
from ttt.eval.pairs.summary import PAIRS
from ttt.eval.rescore import rescore
from ttt.records import provenance, write_json
from ttt.snac.evaluation.between import summarize_between
from ttt.snac.evaluation.listening import make_listening
from ttt.snac.evaluation.systems import BASELINE, CEILING, FOLDING_HISS, OURS, TRUE
from ttt.snac.evaluation.trick_levels import fit
from ttt.snac.verdict import summarize

LONG = "speaker_0007-session_03/the_adventures_of_a_very_long_recording_name_2024-09-03.flac"
"""A name that nothing may break in two."""


def decoder() -> tuple[Any, ...]:
    """Summary, clips, examples and history of a decoder's evaluation."""
    rows = _rows(lsd=0.6)
    speakers = [f"speaker_{n}" for n in range(len(rows))]
    clips = [
        {"clip_id": LONG if n == 0 else f"speaker_{n}/{n}.flac", "seconds": 3.2, "systems": row}
        for n, row in enumerate(rows)
    ]
    here = fit(rows)
    assert here is not None
    summary = {
        **summarize(rows, 0, 300, speakers=speakers),
        "decoder": {
            "name": "step-00001000", "source": f"runs/{LONG}", "sha256": "ab" * 32,
            "codec": "hubertsiuzdak/snac_24khz", "codec_sha256": "cd" * 32,
            "noise_floor": "16 levels from -98.3 to -71.0 dB, fitted on 5 folds",
        },
        "data": {
            "name": "unseen", "kind": "folder", "evaluated": 8, "wanted": 9, "coverage": 8 / 9,
            "seconds": 25.6, "left_out": [{"clip_id": "bad/1.flac", "reason": f"{LONG}: no audio"}],
        },
        "tricks": {"validation": None, "here": here.to_dict()},
        "visqol": {
            "sentence": "ViSQOL (a predicted opinion) is 3.1.", "contradicts": True,
            "systems": {OURS: {"mean": 3.1, "low": 3.0, "high": 3.2, "n": 8, "reason": ""}},
        },
        "bootstrap": {"resamples": 300, "seed": 0},
        "provenance": provenance(finished_run.SUMMARY),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    audio = {
        key: (rng.normal(size=24_000) * 1000).astype(np.int16)
        for key in (TRUE, OURS, BASELINE, FOLDING_HISS, CEILING)
    }
    examples = [Example(LONG, "best of 8: LSD 0.59 times resampling's", 1.0, audio)]
    row = {"lsd": 2.0, "lsd_lf": 1.0, "l1": 0.1}
    history = [
        {"kind": "validation", "step": 0, "loss": 3.0, "rows": {OURS: row, BASELINE: row}},
        {"kind": "step", "step": 1, "phase": 1, "loss": None},
        {"kind": "step", "step": 2, "phase": 2, "loss": 2.0},
        {"kind": "validation", "step": 2, "loss": 2.5, "rows": {OURS: row, BASELINE: row}},
    ]
    return summary, clips, examples, history


def compared_decoders() -> tuple[Any, ...]:
    """Summary, clips and examples of three decoders' comparison."""
    single, _, examples, _ = decoder()
    clips = []
    for n, (one, two) in enumerate(zip(_rows(lsd=0.6), _rows(lsd=0.5, lsd_hf=1.9), strict=True)):
        systems = {"A": one[OURS], "B": two[OURS], "C": one[OURS]}
        systems |= {name: one[name] for name in (BASELINE, CEILING)}
        name = LONG if n == 0 else f"speaker_{n}/{n}.flac"
        clips.append({"clip_id": name, "seconds": 3.2, "systems": systems})
    names = {letter: f"runs/{letter}/{LONG}" for letter in "ABC"}
    between = summarize_between(
        [clip["systems"] for clip in clips],
        names,
        [f"speaker_{n}" for n in range(len(clips))],
        seed=0,
        resamples=300,
        beside=(BASELINE, CEILING),
    )
    summary = {
        **between,
        "decoders": {
            letter: {**single["decoder"], "name": name, "verdict": single["verdict"]["heading"]}
            for letter, name in names.items()
        },
        "data": {**single["data"], "compared": 8},
        "listening": {"page": None, "clips": 0, "left_out": {}, "residual_lu": 0.0},
        "bootstrap": single["bootstrap"],
        "provenance": single["provenance"],
    }
    audio = {**examples[0].audio, **dict.fromkeys("ABC", examples[0].audio[OURS])}
    return summary, clips, [Example(LONG, "LSD of C 1.00 times A's", 1.0, audio)]


def heard_decoders() -> tuple[Any, ...]:
    """The same of two decoders that six listeners have heard, and what they prefer."""
    summary, clips, examples = compared_decoders()
    decoders = {letter: summary["decoders"][letter] for letter in "AB"}
    listening = {"page": "0123456789abcdef", "clips": 16, "left_out": {}, "residual_lu": 0.0021}
    summary = {
        **summary,
        "decoders": decoders,
        "comparisons": summary["comparisons"][:1],
        "listening": listening,
    }
    listeners = [
        {
            "file": f"{n}.json", "name": LONG if n == 0 else f"Listener {n}",
            "listener": f"{n:016x}",
            "answered": 16, "preferred": {"A": 2, "B": 12}, "no_difference": 2,
        }
        for n in range(6)
    ]  # fmt: skip
    preference = {
        "page": listening["page"], "trials": 16, "listeners": listeners,
        "sides": {"1": 40, "2": 44},
        "verdict": {
            "kind": "good", "heading": "Listeners prefer B to A",
            "sentences": ["B is preferred in 72, A in 12 and neither in 12 of 96 answers."],
        },
    }  # fmt: skip
    return summary, clips, examples, preference


def listening_page() -> str:
    """A blind comparison of two clips of noise."""
    noise = (np.random.default_rng(0).normal(size=(4, 24_000)) * 1000).astype(np.int16)
    clips = {"1": {"A": noise[0], "B": noise[1]}, "2": {"A": noise[2], "B": noise[3]}}
    return build_listening_page(make_listening(clips, "secret"))


def chapters(folder: Path) -> Path:
    """A finished run over chapters, one of them without a record, another held to stepping."""
    run = finished_run.write_run(folder, warnings=("wrong on purpose <b>",))
    (run / "records/ttt/5/book/chapter_5.parquet").unlink()
    margin = replace(finished_run.SUMMARY, equivalence_margin=0.002)
    summary = rescore(CHAPTERS, run, margin)
    summary["models"]["ttt"]["verification"] = {
        "groups": 2, "frames": 1632, "text_differences": 6, "unexplained_text_differences": 3,
        "unverified": [{"chapters": ["a/1", "a/2"], "reason": "out of memory"}],
        "largest_nll_difference": 2.13e-6, "beginning_frames": 9216,
    }  # fmt: skip
    write_json(run / "summary.json", summary)
    return run


def pairs(folder: Path) -> Path:
    """A finished run over pairs of two benchmarks, one recording of which is broken."""
    noisy = scored_pairs.noisy(1)

    def broken(pair: Any, role: Any) -> float | None:
        return None if pair.cluster_id == "dev/3" else noisy(pair, role)

    found = [
        scored_pairs.made_pairs(),
        scored_pairs.made_pairs("sblimp", frequency="often", phenomenon="anaphor_agreement"),
    ]
    losses = {"baseline": broken, "ttt_long_name": scored_pairs.noisy(2)}
    run = scored_pairs.write_run(folder, losses, found)
    rescore(PAIRS, run)
    silence = (np.random.default_rng(0).normal(size=12_000) * 100).astype(np.int16)
    (run / "silence.flac").write_bytes(flac_bytes(silence, 24_000))
    return run


def trainings(folder: Path) -> dict[str, str]:
    """Pages of a training in Moshi, of one with many layers, of one that has only begun, of one
    without validation, and of the first beside its control."""
    runs = {
        "training": write_training(folder / "ttt"),
        "training of 16 layers": write_training(folder / "many", speakers=2, layers=16),
        "training that has begun": write_training(folder / "new", gains={0: 0.0}, step=2),
        "training without validation": write_training(folder / "blind", gains={}),
    }
    control = write_training(
        folder / "lora",
        ttt=None,
        lora=LORA,
        trained={"lora": 1030},
        gains={0: 0.0, 40: -0.02},
    )
    for run in (*runs.values(), control):
        write_report(str(run))
    write_comparison(str(runs["training"]), str(control), str(folder / "both"))
    runs["training and control"] = folder / "both"
    return {name: (run / "report.html").read_text() for name, run in runs.items()}


def sweep() -> dict[str, Any]:
    """trials.json of a sweep that ended early."""
    keys = ("optim.peak_lr", "optim.weight_decay", "loss.kind")
    trials = [
        {
            "number": n, "state": ("finished", "stopped", "diverged")[n % 3], "why": "loss is NaN",
            "loss": None if n % 3 == 2 else 2.0 - 0.05 * n, "best_step": 40, "step": 40 + n,
            "epochs": 4, "copied": [{"step": 20, "from": 0}] if n == 3 else [],
            "values": {keys[0]: 1e-4 * (n + 1), keys[1]: 0.01, keys[2]: "l1" if n % 2 else "stft"},
            "curve": [[0, 4.0, 0], [20, 2.5 - 0.05 * n, 2], [40, 2.0 - 0.05 * n, 4]],
        }
        for n in range(8)
    ]  # fmt: skip
    return {
        "verdict": {
            "kind": "good", "heading": "Trial 7 beats the default configuration",
            "sentences": ["Its validation loss is 1.6500, the default's 2.0000 (-17.5%).", "One."],
        },
        "best": 7, "ended_early": "time_limit_s is over", "validation_windows": 64,
        "search": "random", "scheduler": "asha", "trials": trials,
        "space": {
            keys[0]: {"words": "from 1e-05 to 0.001, logarithmic", "log": True, "choices": None},
            keys[1]: {"words": "from 0 to 0.1", "log": False, "choices": None},
            keys[2]: {"words": "one of l1, stft", "log": False, "choices": ["l1", "stft"]},
        },
        "importance": {
            keys[0]: {"share": 0.4, "chance": 0.1, "n": 20, "reason": None},
            keys[1]: {"share": None, "chance": None, "n": 5, "reason": "5 trials are too few"},
            keys[2]: {"share": 0.2, "chance": 0.1, "n": 20, "reason": None},
        },
        "provenance": {
            **provenance(finished_run.SUMMARY), "config": {"data": {"train": f"caches/{LONG}"}},
        },
    }  # fmt: skip

"""Jobs run from their configurations, as their commands do it, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_jobs.decoder import decode as decode_worker
from ray_jobs.decoder.evaluate import compare as evaluation
from ray_jobs.decoder.evaluate import several
from ray_jobs.decoder.evaluate_config import DecodeConfig, EvaluateConfig
from ray_jobs.moshi.chapters import plan as chapter_plan
from ray_jobs.moshi.chapters import run as chapter_pool
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.pairs import plan as pair_plan
from ray_jobs.moshi.pairs import run as pair_pool
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ray_jobs.runtime.cli import Invocation
from ttt import records


def run_chapters(config: EvaluateChaptersConfig, *, resume: bool = False) -> None:
    """As `python -m ray_jobs.evaluate_chapters` does."""
    chapter_pool.evaluate(chapter_plan.make_plan(config), _invocation(resume))


def run_pairs(config: EvaluatePairsConfig, *, resume: bool = False) -> dict[str, Any]:
    """As `python -m ray_jobs.evaluate_pairs` does; returns summary.json."""
    pair_pool.evaluate(pair_plan.make_plan(config), _invocation(resume))
    return records.read_json(Path(config.output) / "summary.json")


def run_decoder_evaluation(config: EvaluateConfig, *, resume: bool = False) -> None:
    """As `python -m ray_jobs.evaluate_decoder` does."""
    evaluation.evaluate(several.plan(config), _invocation(resume))


def run_decode(config: DecodeConfig, *, resume: bool = False) -> None:
    """As `python -m ray_jobs.decode_codes` does."""
    decode_worker.decode(decode_worker.plan_decode(config), _invocation(resume))


def _invocation(resume: bool) -> Invocation:
    return Invocation(resume=resume, address=None, config_path="")

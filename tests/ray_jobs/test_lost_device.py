"""A worker that loses its GPU records no failure for it: test_item_jobs.py has its successors."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ray_jobs.config.load import load_config
from ray_jobs.decoder import decode as decode_worker
from ray_jobs.decoder.evaluate import run as evaluate_worker
from ray_jobs.moshi import synthetic
from ray_jobs.moshi.chapters import (
    plan as chapter_plan,
)
from ray_jobs.moshi.chapters import (
    worker as chapter_worker,
)
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.pairs import plan as pair_plan
from ray_jobs.moshi.pairs import worker as pair_worker
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ttt.errors import UserError
from ttt.eval.pairs import score as scorer
from ttt.snac.cache import write_shard as cache_shard
from ttt.snac.cache.inputs import ClipInput
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20, "text_card": 64}


def lost(*_: Any, **__: Any) -> None:
    raise torch.AcceleratorError("CUDA error: unspecified launch failure\nadvice")


@pytest.fixture
def chapters(tmp_path: Path) -> EvaluateChaptersConfig:
    words = [
        f"model.lm_kwargs={json.dumps(SMALL)}",
        "data=null",
        "synthetic.frames=60",
        "synthetic.chapters=3",
        "streams.other=masked",
        "verify_spans=0",
        "summary.positions=[50]",
        "summary.window_frames=40",
        "summary.resamples=20",
        "cluster.num_workers=1",
        f"output={tmp_path / 'out'}",
    ]
    return load_config(EvaluateChaptersConfig, CONFIGS / "chapters_tiny_cpu.yaml", words)


@pytest.fixture
def pairs(tmp_path: Path) -> EvaluatePairsConfig:
    roots = write_fixtures(tmp_path / "pairs", say_by_arithmetic)
    none = [f"tasks.{name}=null" for name in roots if name != "swuggy"]
    words = [
        f"tasks.swuggy.root={roots['swuggy']}",
        "tasks.swuggy.max_pairs=6",
        f"model.lm_kwargs={json.dumps(SMALL)}",
        "pairs_per_shard=2",
        "summary.resamples=20",
        "cluster.num_workers=1",
        f"output={tmp_path / 'out'}",
    ]
    return load_config(EvaluatePairsConfig, CONFIGS / "pairs_tiny_cpu.yaml", [*none, *words])


@pytest.mark.parametrize(
    ("module", "inside"),
    (
        (synthetic, "synthetic_chapter"),
        (chapter_worker, "record_group"),
        (chapter_worker, "verify_group"),
    ),
)
def test_a_chapter_worker_records_no_lost_device_as_a_failure(
    chapters: EvaluateChaptersConfig,
    module: ModuleType,
    inside: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = chapter_worker.ChapterWorker(replace(chapters, verify_spans=1), None)
    monkeypatch.setattr(module, inside, lost)
    with pytest.raises(torch.AcceleratorError):
        worker.hear(chapter_plan.make_plan(chapters).work[0])


def test_a_pair_worker_records_no_lost_device_as_a_failure(
    pairs: EvaluatePairsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = pair_plan.make_plan(pairs)
    worker = pair_worker.PairWorker(planned.config, None)
    with monkeypatch.context() as patch:
        patch.setattr(pair_worker, "encode_recording", lost)
        with pytest.raises(torch.AcceleratorError):
            worker.score(planned.work[0])

    def behind_a_sentence(*_: Any, **__: Any) -> None:
        try:
            lost()
        except RuntimeError as error:
            raise UserError("the saved state does not fit") from error

    monkeypatch.setattr(scorer, "evaluate_codes", behind_a_sentence)
    with pytest.raises(UserError, match="does not fit"):
        worker.score(planned.work[0])


class _Raising:
    """In place of whatever a worker holds."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def _raise(self, *_: Any) -> None:
        raise self._error

    read = measure = read_codes = checksum = _raise
    geometry = catalogue = None


@pytest.mark.parametrize("name", ("measure", "decode"))
def test_what_one_clip_costs_where_a_worker_survives_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = {"measure": evaluate_worker.EvaluateWorker, "decode": decode_worker.DecodeWorker}
    worker = actors[name]
    item = SimpleNamespace(
        clip_id="a.wav", file=Path("a.npy"), wav="a.wav", row=0, told=None, place=None
    )
    monkeypatch.setattr(
        decode_worker.FileIdentity, "of", lambda path: SimpleNamespace(to_dict=dict)
    )
    behind_a_sentence = UserError("cannot be loaded")
    behind_a_sentence.__cause__ = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
    gone = (torch.AcceleratorError("CUDA error: unspecified launch failure"), behind_a_sentence)
    too_large = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.")
    for error in (*gone, too_large):
        held = worker.__new__(worker)
        held._reader = held._evaluator = held._decoder = held._cache = _Raising(error)
        held._output, held._layout = Path(), None
        monkeypatch.setattr(decode_worker, "read_codes", _Raising(error).read)
        if error is too_large:
            assert "out of memory" in getattr(held, name)(item).reason
        else:
            with pytest.raises(type(error)):
                getattr(held, name)(item)


def test_a_clip_that_meets_a_lost_device_is_not_left_out() -> None:
    clip = ClipInput(clip_id="a", source="a.wav")
    with pytest.raises(torch.AcceleratorError):
        cache_shard._outcome(clip, lost)

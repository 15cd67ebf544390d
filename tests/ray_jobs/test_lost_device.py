"""Every job over actors whose worker loses its GPU once: all items come back, as if undisturbed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ray_jobs import cache_codes
from ray_jobs.config.load import load_config
from ray_jobs.config.workers import WorkersConfig
from ray_jobs.decoder import decode as decode_worker
from ray_jobs.decoder.cache import run as cache_run
from ray_jobs.decoder.evaluate import run as evaluate_worker
from ray_jobs.decoder.evaluate_config import (
    BootstrapConfig,
    DecodeConfig,
    EvaluateConfig,
    EvaluationDataConfig,
    ReportConfig,
)
from ray_jobs.moshi.chapters import (
    plan as chapter_plan,
)
from ray_jobs.moshi.chapters import (
    run as chapter_pool,
)
from ray_jobs.moshi.chapters import (
    worker as chapter_worker,
)
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.pairs import plan as pair_plan
from ray_jobs.moshi.pairs import run as pair_pool
from ray_jobs.moshi.pairs import worker as pair_worker
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from tests.jobs import run_chapters, run_decode, run_decoder_evaluation, run_pairs
from ttt.errors import UserError
from ttt.eval.pairs import score as scorer
from ttt.snac.cache import write_shard as cache_shard
from ttt.snac.cache.inputs import ClipInput
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20, "text_card": 64}


def lost(*_: Any, **__: Any) -> None:
    raise torch.AcceleratorError("CUDA error: unspecified launch failure\nadvice")


def losing(worker: type, method: str, flag: Path) -> type:
    """The worker, whose second call of `method` loses the device, once."""
    calls = flag.parent / "calls"

    def call(self: Any, *arguments: Any) -> Any:
        with calls.open("a") as file:
            file.write(".")
        if calls.stat().st_size == 2 and not flag.exists():
            flag.touch()
            lost()
        return getattr(worker, method)(self, *arguments)

    return type("Losing", (worker,), {method: call})


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    return tmp_path / "lost"


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


@pytest.mark.usefixtures("ray_local")
def test_chapters(
    chapters: EvaluateChaptersConfig, flag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = losing(chapter_worker.ChapterWorker, "hear", flag)
    monkeypatch.setattr(chapter_pool, "ChapterWorker", worker)
    run_chapters(chapters)
    assert flag.exists()
    assert len(list((Path(chapters.output) / "records").rglob("*.parquet"))) == 3
    assert not (Path(chapters.output) / "failures.jsonl").exists()


@pytest.mark.usefixtures("ray_local")
def test_pairs(pairs: EvaluatePairsConfig, flag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = losing(pair_worker.PairWorker, "score", flag)
    monkeypatch.setattr(pair_pool, "PairWorker", worker)
    summary = run_pairs(pairs)
    assert flag.exists()
    (run,) = summary["runs"].values()
    assert [(task["scored"], task["planned"]) for task in run["tasks"].values()] == [(6, 6)]


@pytest.mark.usefixtures("ray_local")
def test_evaluate_decoder_and_decode(
    small_codec: Path,
    small_export: Path,
    recordings: Path,
    small_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = WorkersConfig(num_workers=1)
    for name in ("measuring", "decoding"):
        (tmp_path / name).mkdir()
    measuring, decoding = tmp_path / "measuring" / "lost", tmp_path / "decoding" / "lost"
    worker = losing(evaluate_worker.EvaluateWorker, "measure", measuring)
    monkeypatch.setattr(evaluate_worker, "EvaluateWorker", worker)
    run_decoder_evaluation(
        EvaluateConfig(
            decoder=str(small_export),
            codec=str(small_codec),
            output=str(tmp_path / "out"),
            data=EvaluationDataConfig(audio=str(recordings / "a")),
            bootstrap=BootstrapConfig(resamples=100),
            report=ReportConfig(examples=0, write_card=False, visqol=False),
            cluster=cluster,
        )
    )
    assert measuring.exists()
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2

    worker = losing(decode_worker.DecodeWorker, "decode", decoding)
    monkeypatch.setattr(decode_worker, "DecodeWorker", worker)
    output = str(tmp_path / "wavs")
    config = DecodeConfig(
        decoder=str(small_export), input=str(small_cache), output=output, cluster=cluster
    )
    run_decode(config)
    assert decoding.exists()
    assert len(list((tmp_path / "wavs").rglob("*.wav"))) == 2


@pytest.mark.usefixtures("ray_local")
def test_caching(
    small_codec: Path, flag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(3):
        noise = 0.1 * np.random.default_rng(number).standard_normal(48_000)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", noise, 48_000)
    worker = losing(cache_run.ShardEncoder, "cache", flag)
    monkeypatch.setattr(cache_run, "ShardEncoder", worker)
    words = ["clips_per_shard=1", "cluster.num_workers=1", f"codec.name={small_codec}"]
    config = f"--config={CONFIGS / 'cache_folder.yaml'}"
    where = (f"input.audio={tmp_path / 'audio'}", f"output={tmp_path / 'cache'}")
    assert cache_codes.main([config, *words, *where]) == 0
    assert flag.exists()
    manifest = (tmp_path / "cache" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in manifest] == ["cached"] * 3


@pytest.mark.parametrize("inside", ("synthetic_chapter", "record_group", "verify_group"))
def test_a_chapter_worker_records_no_lost_device_as_a_failure(
    chapters: EvaluateChaptersConfig, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = chapter_worker.ChapterWorker(replace(chapters, verify_spans=1), None)
    monkeypatch.setattr(chapter_worker, inside, lost)
    with pytest.raises(torch.AcceleratorError):
        worker.hear(chapter_plan.make_plan(chapters).work[0])


def test_a_pair_worker_records_no_lost_device_as_a_failure(
    pairs: EvaluatePairsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = pair_plan.make_plan(pairs)
    worker = pair_worker.PairWorker(planned.config)
    with monkeypatch.context() as patch:
        patch.setattr(pair_worker, "encode_chapter", lost)
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
    item = SimpleNamespace(clip_id="a.wav", file=Path("a.npy"), wav="a.wav", row=0)
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
        held._output = Path()
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

"""Caching made chapters: codes of no Mimi, the same bytes however it ran, and heard as made."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_jobs import cache_chapters, evaluate_chapters
from ray_jobs.moshi.synthetic import SyntheticDataConfig, synthetic_chapters
from tests.chapter_caches import write_cache
from ttt import records
from ttt.errors import UserError
from ttt.eval.chapters.records import read_record
from ttt.moshi import evaluate_codes, tiny_lm
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.tiny_pair import LANGUAGE
from ttt.synthetic.chapters import SyntheticChapterConfig, synthetic_chapter

ROOT = Path(__file__).resolve().parents[2]
HERE = "cluster.num_workers=0"
MADE = (
    *("synthetic.chapters=7", "synthetic.frames=[96, 64, 80]", "synthetic.first_seed=40"),
    "chapters_per_shard=2",
)


def words(output: Path | str, *more: str) -> list[str]:
    config = f"--config={ROOT / 'configs/cache_synthetic.yaml'}"
    return [config, f"output={output}", *MADE, *more]


def content(cache: Path) -> dict[str, bytes]:
    """Everything whose bytes are promised."""
    paths = [*cache.glob("shards/*"), cache / "index.arrow", cache / "manifest.jsonl"]
    return {path.name: path.read_bytes() for path in paths}


def refused(capsys: pytest.CaptureFixture[str], main: object, *arguments: str) -> str:
    capsys.readouterr()
    assert callable(main)
    assert main([*arguments]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache, made in this process; never written to."""
    output = tmp_path_factory.mktemp("cached") / "cache"
    assert cache_chapters.main(words(output, HERE)) == 0
    return output


def test_a_cache_holds_the_languages_chapters(cached: Path) -> None:
    cache = ChapterCache.open(cached)
    assert cache.n_frames.tolist() == [96, 64, 80, 96, 64, 80, 96]
    without = 0
    for row, chapter in enumerate(cache.chapters):
        assert chapter.speaker == f"speaker_{row}"
        assert chapter.chapter_id == f"speaker_{row}/chapter_{row}"
        assert chapter.seconds == chapter.n_frames / 12.5
        codes = cache.read(row, 0, chapter.n_frames).T
        kinds = {
            structure: synthetic_chapter(
                dataclasses.replace(LANGUAGE, structure=structure), 40 + row, chapter.n_frames
            )
            for structure in ("table", "none")
        }
        (found,) = (name for name, made in kinds.items() if np.array_equal(made, codes))
        without += found == "none"
    assert without == 4  # Half of seven, to the even number.
    assert (cache.codes.name, cache.codes.is_synthetic, cache.codes.card) == ("synthetic", True, 16)
    assert len(cache.codes.weights_sha256) == 64
    lines = list(records.read_jsonl(cached / "manifest.jsonl"))
    assert [line["seconds"] for line in lines] == [each.seconds for each in cache.chapters]
    summary = records.read_json(cached / "summary.json")
    assert (summary["cached"], summary["frames"], summary["speakers"]) == (7, 576, 7)
    assert summary["hours"] == pytest.approx(576 / 12.5 / 3600)


def test_codes_are_of_their_language_and_of_no_mimi(cached: Path, tmp_path: Path) -> None:
    cache = ChapterCache.open(cached)
    for same in (LANGUAGE, dataclasses.replace(LANGUAGE, structure="none")):
        cache.require_synthetic(same)
    with pytest.raises(UserError, match=r"cues 8, cues_per_block 2, card 20\) is needed"):
        cache.require_synthetic(dataclasses.replace(LANGUAGE, card=20))
    with pytest.raises(UserError, match="are synthetic, no Mimi made them, and those of Mimi tiny"):
        cache.require_mimi("tiny", cache.codes.weights_sha256)
    write_cache(tmp_path, [4])
    with pytest.raises(UserError, match="made by Mimi nano, and synthetic ones are needed"):
        ChapterCache.open(tmp_path).require_synthetic()


def test_chapters_without_structure_are_spread_over_speakers_and_lengths() -> None:
    for speakers, share in ((2, 0.5), (3, 0.25), (None, 0.5)):
        config = SyntheticDataConfig(
            chapters=120, speakers=speakers, frames=(10, 20), null_share=share
        )
        chapters = synthetic_chapters(config)
        without = [each for each in chapters if each.language.structure == "none"]
        assert len(without) == 120 * share
        assert {each.frames for each in without} == {10, 20}
        if speakers is not None:
            assert len({each.speaker for each in without}) == speakers
        assert chapters == synthetic_chapters(config)
    plain = synthetic_chapters(SyntheticDataConfig(chapters=3, speakers=2))
    assert [(each.chapter_id, each.seed, each.frames) for each in plain] == [
        ("speaker_0/chapter_0", 1_000_000, 2000),
        ("speaker_1/chapter_1", 1_000_001, 2000),
        ("speaker_0/chapter_2", 1_000_002, 2000),
    ]
    assert {each.language for each in plain} == {SyntheticChapterConfig()}


def test_what_is_missing_is_made_again_and_verify_makes_a_sample(
    cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(cached, tmp_path / "cache"))
    assert cache_chapters.main(["--verify", str(copy)]) == 0
    assert capsys.readouterr().out.count("100.00% of its codes are the same") == 2
    for name in ("shards/shard-00001.jsonl", "index.arrow", "summary.json"):
        (copy / name).unlink()
    again = words(copy, HERE)
    assert cache_chapters.main([*again, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "cache 7 chapters by 7 speakers, 0.01 hours, 576 frames" in told
    assert "made from seed 40 on, 4 of them without structure" in told
    assert "no Mimi is asked" in told
    assert "4 of at most 2 chapters; 3 are finished, it goes on there" in told
    assert cache_chapters.main(again) == 0
    assert content(copy) == content(cached)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("first_seed: 40", "first_seed: 41"))
    refused(capsys, cache_chapters.main, "--verify", str(copy))
    line = refused(capsys, cache_chapters.main, *again, "synthetic.null_share=0.25")
    assert "synthetic.null_share was 0.5, is 0.25" in line


@pytest.mark.usefixtures("ray_local")
def test_workers_write_the_same_bytes(cached: Path, tmp_path: Path) -> None:
    more = ("cluster.num_workers=2", "cluster.cpus_per_worker=0.5")
    assert cache_chapters.main(words(tmp_path / "cache", *more)) == 0
    assert content(tmp_path / "cache") == content(cached)


def test_a_kill_changes_no_byte(cached: Path, tmp_path: Path) -> None:
    output = tmp_path / "cache"
    job = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.cache_chapters", *words(output, HERE)], cwd=ROOT
    )
    deadline = time.monotonic() + 300
    while not list(output.glob("shards/*.jsonl")):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert cache_chapters.main(words(output, HERE)) == 0
    assert content(output) == content(cached)


def test_own_text_beside_made_codes(tmp_path: Path) -> None:
    shape = "{dim: 64, num_layers: 2, depformer_dim: 32, context: 20}"
    text = f"text={{weights: tiny, dtype: float32, chunk: 16, other: masked, lm_kwargs: {shape}}}"
    more = ("synthetic.chapters=1", text, HERE)
    assert cache_chapters.main(words(tmp_path / "cache", *more)) == 0
    cache = ChapterCache.open(tmp_path / "cache")
    (chapter,) = synthetic_chapters(
        SyntheticDataConfig(
            chapters=1, speakers=None, frames=96, first_seed=40, null_share=0.5, language=LANGUAGE
        )
    )
    lm = tiny_lm(dim=64, num_layers=2, depformer_dim=32, context=20)
    codes = torch.from_numpy(chapter.codes())[None]
    heard = evaluate_codes(lm, codes, chunk=16, other_stream="masked")
    assert cache.read_text(0, 0, 96).tolist() == heard.text[0].tolist()


def test_a_cache_is_heard_as_the_chapters_themselves(cached: Path, tmp_path: Path) -> None:
    common = [
        *(f"--config={ROOT / 'configs/chapters_effect.yaml'}", HERE, "model.ttt=null"),
        *("model.ttt_weights=null", "verify_spans=0", "summary.positions=[40]"),
        *("summary.window_frames=32", "summary.resamples=20"),
    ]
    made = [*MADE[:3]]
    made += ["synthetic.speakers=null", "synthetic.null_share=0.5", f"output={tmp_path / 'made'}"]
    assert evaluate_chapters.main([*common, *made]) == 0
    cache = ["synthetic=null", f"data.cache={cached}", "model.mimi=synthetic"]
    assert evaluate_chapters.main([*common, *cache, f"output={tmp_path / 'cache'}"]) == 0
    names = [path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*.parquet")]
    assert len(names) == 7
    for name in names:
        heard = [read_record(tmp_path / folder / name) for folder in ("made", "cache")]
        assert heard[0].nll.tobytes() == heard[1].nll.tobytes()
        assert heard[0].details.chapter_id == heard[1].details.chapter_id
    run = records.read_json(tmp_path / "cache/run.json")
    codes = ChapterCache.open(cached).codes
    assert run["mimi"] == {"name": "synthetic", "weights_sha256": codes.weights_sha256}


def test_bad_input_is_one_sentence_before_anything_starts(
    cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    for change, sentence in (
        ("mimi=tiny", "synthetic chapters are codes already, so that no Mimi is asked"),
        ("data.root=somewhere", "set exactly one of data (recordings) and synthetic"),
        ("synthetic=null|data.root=x", "mimi is null: name the Mimi that is to make the codes"),
        ("text={other: silence}", "no codec that could say what silence is: set text.other=masked"),
        ("synthetic.null_share=1.5", "null_share must lie between 0 and 1, got 1.5"),
        ("synthetic.frames=[]", "chapters, speakers and frames must be 1 or more"),
        ("synthetic.frames=[8,0]", "chapters, speakers and frames must be 1 or more"),
        ("synthetic.language.structure=none", "null_share has no effect where language.structure"),
    ):
        line = refused(capsys, cache_chapters.main, *words(output), *change.split("|"))
        assert sentence in line, line
    write_cache(tmp_path / "mimis", [40])
    hearing = [
        *(f"--config={ROOT / 'configs/chapters_effect.yaml'}", f"output={output}", HERE),
        *("model.ttt=null", "model.ttt_weights=null", "synthetic=null"),
    ]
    for change, sentence in (
        (f"data.cache={cached}", "its codes are synthetic, no Mimi made them; only a model that"),
        (f"data.cache={tmp_path / 'mimis'}|model.mimi=synthetic", "were made by Mimi nano, and"),
        ("data.root=x|model.mimi=synthetic", "says that no Mimi made the codes: set data.cache"),
        (f"data.cache={cached}|model.mimi=synthetic|streams.other=silence", "streams.other=masked"),
    ):
        assert sentence in refused(capsys, evaluate_chapters.main, *hearing, *change.split("|"))
    assert not output.exists()

"""What commit 8b30563 wrote is read, continued, rescored and compared (written_by_8b30563/make.py).

Each test works on a copy of its own. What that commit got is the reference: the end of the
training that was cut, the decoded wav, the scores. All but the sweep go on in this process, with
`cluster.num_workers=0`, whose records are the same.
"""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from ray_jobs import (
    cache_codes,
    decode_codes,
    evaluate_all,
    evaluate_chapters,
    evaluate_decoder,
    evaluate_pairs,
    train_decoder,
    tune_decoder,
)
from ttt.records import read_json, read_jsonl
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shards import build_index
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes

HERE = Path(__file__).parent / "written_by_8b30563"
DECODE = Path(__file__).parents[1] / "configs" / "decode.yaml"
MIMI = "a3e66882e9b360cfe86a152c6fa13c3426c7bbe720e7f513461f0938809f563b"
"""The tiny Mimi of the processor that wrote them."""
IN_PROCESS = "cluster.num_workers=0"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything, whose paths are right where it lies."""
    root = tmp_path / "written"
    with tarfile.open(HERE / "files.tar.xz") as archive:
        archive.extractall(root, filter="data")
    for path in root.rglob("*"):
        if path.suffix in {".yaml", ".json", ".jsonl", ".csv", ".md"}:
            path.write_text(path.read_text().replace("@ROOT@", str(root)))
    # The tiny Mimi is drawn otherwise on another processor, in its last bits. Named as the one
    # that wrote this, its codes are found where they are kept.
    monkeypatch.setattr("ttt.moshi.load.mimi_sha256", lambda _: MIMI)
    return root


def test_its_cache_is_read_and_verified(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache_codes.main(["--verify", str(written / "cached")]) == 0
    cache = open_cache(written / "cache")
    assert list(cache.catalogue.clip_ids[:]) == [f"clip{n:02d}" for n in range(7)]
    table = pq.read_table(written / "cache" / "shards" / "shard-00000.parquet")
    for row, audio in enumerate(table["audio"].to_pylist()):
        n_samples = int(cache.catalogue.n_samples[row])
        assert cache.read_audio(row, 0, n_samples).tobytes() == audio[: 2 * n_samples]


def test_its_cache_says_that_speakers_and_bandwidths_are_unknown(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its index, made again, has the same bytes: it stays valid beside newer ones."""
    cache = written / "cached"
    assert open_cache(cache).catalogue.speakers[:] == [None] * 3
    assert np.isnan(open_cache(cache).catalogue.bandwidth_hz).all()
    assert open_cache(cache).catalogue.counted_in_words() == "3 clips"  # And no copies.
    before = (cache / "index.arrow").read_bytes()
    build_index(cache)
    assert (cache / "index.arrow").read_bytes() == before
    words = ["--config", str(cache / "config.yaml"), "input.speaker=folder:1"]
    (written / "audio" / "sub").mkdir()
    assert cache_codes.main(words) == 2
    assert "folder:1" in capsys.readouterr().err
    assert cache_codes.main([*words[:2], "input.gain_copies_db={}"]) == 2
    assert "input.gain_copies_db was None, is" in capsys.readouterr().err


def test_its_caching_goes_on(written: Path) -> None:
    """A shard that is missing is made again as it was begun: codes, audio, columns and lines."""
    shard = written / "cached" / "shards" / "shard-00001.parquet"
    manifest = written / "cached" / "manifest.jsonl"
    before, lines = pq.read_table(shard), list(read_jsonl(manifest))
    (written / "cached" / "shards" / "shard-00001.jsonl").unlink()
    shard.unlink()
    words = ["--config", str(written / "cached" / "config.yaml"), "workers.count=0"]
    assert cache_codes.main(words) == 0
    assert pq.read_table(shard).equals(before, check_metadata=True)
    assert list(read_jsonl(manifest)) == lines
    assert [line["status"] for line in lines] == ["cached", "cached", "cached", "left_out"]


def test_its_export_decodes_as_it_did(written: Path) -> None:
    decoder = Decoder48k.from_pretrained(written / "train" / "export")
    cache = open_cache(written / "cache")
    rows = torch.from_numpy(cache.read_codes(0, 0, int(cache.catalogue.n_coarse[0])))
    with torch.no_grad(), deterministic(decoder):
        audio = decoder.decode(interleaved_to_codes(rows[None], cache.geometry))[0, 0].numpy()
    theirs, _ = soundfile.read(written / "decoded" / "clip00.wav", dtype="float32")
    # Half a step of 16 bits, and the last bits that another processor computes otherwise.
    assert np.abs(audio[: len(theirs)].clip(-1, 1) - theirs).max() < 1 / 32768


def test_its_training_goes_on_from_the_middle_of_an_epoch(written: Path) -> None:
    run = written / "train_cut"
    assert train_decoder.main(["--config", str(run / "config.yaml"), "--resume"]) == 0
    last = "checkpoints/step-00000006/model.safetensors"
    ours, theirs = load_file(run / last), load_file(written / "train" / last)
    assert ours.keys() == theirs.keys()
    apart = torch.cat([_apart(tensor, theirs[name]).flatten() for name, tensor in ours.items()])
    # AdamW moves a weight by its learning rate (here up to 8e-5) however small its gradient is, so
    # that where a gradient is all rounding, another processor's bits move it otherwise.
    assert apart.max() < 30
    assert (apart > 1).double().mean() < 0.01
    losses = [_losses(folder / "metrics.jsonl") for folder in (run, written / "train")]
    assert losses[0].keys() == losses[1].keys() == set(range(1, 7))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Differences, in what equal computations may differ by."""
    return (ours - theirs).abs() / (1e-6 + 1e-4 * theirs.abs())


def test_its_evaluation_of_a_decoder_goes_on(written: Path) -> None:
    output = written / "evaluation"
    lines = (output / "results.jsonl").read_text().splitlines(keepends=True)
    (output / "results.jsonl").write_text("".join(lines[:2]))
    (output / "summary.json").unlink()
    words = ["--config", str(output / "config.yaml"), IN_PROCESS, "--resume"]
    assert evaluate_decoder.main(words) == 0
    again = read_jsonl(output / "results.jsonl")
    for old, new in zip(map(json.loads, lines), again, strict=True):
        assert new["clip_id"] == old["clip_id"]
        for system, row in old["systems"].items():
            for metric, value in row.items():
                wide = system == "resampled_true24"  # Its filter was another one.
                rel = 0.5 if wide else 1e-3
                assert new["systems"][system][metric] == pytest.approx(value, rel=rel, abs=1e-3)
    verdict = read_json(output / "summary.json")["verdict"]
    assert verdict["kind"] != "good", "three clips"
    assert (output / "report.html").exists()


def test_its_decoding_goes_on(written: Path) -> None:
    output = written / "decoded"
    before = (output / "clip00.wav").read_bytes()
    arguments = ["--config", str(DECODE), f"decoder={written / 'train' / 'export'}"]
    arguments += [f"input={written / 'cache'}", f"output={output}", IN_PROCESS, "--resume"]
    assert decode_codes.main(arguments) == 0
    assert sorted(path.name for path in output.glob("*.wav")) == [
        f"clip{number:02d}.wav" for number in range(7)
    ]
    assert (output / "clip00.wav").read_bytes() == before


def test_its_sweep_goes_on(ray_local: None, written: Path) -> None:
    run = written / "tune"
    before = {trial["number"]: trial for trial in read_json(run / "trials.json")["trials"]}
    more = ["search.trials=3", "--resume"]
    assert tune_decoder.main(["--config", str(run / "config.yaml"), *more]) == 0
    after = {trial["number"]: trial for trial in read_json(run / "trials.json")["trials"]}
    assert sorted(after) == [0, 1, 2, 3]
    for number, trial in before.items():
        assert after[number]["loss"] == trial["loss"]


def test_its_chapters_go_on_and_are_rescored_and_compared(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = written / "chapters"
    before = read_json(output / "summary.json")
    records = sorted(path for path in (output / "records").rglob("*") if path.is_file())
    kept = {path: path.read_bytes() for path in records}
    lost = [path for path in records if "speaker_3" in str(path)]
    assert lost
    for path in lost:
        path.unlink()
    words = ["--config", str(output / "config.yaml"), IN_PROCESS, "--resume"]
    assert evaluate_chapters.main(words) == 0
    assert all(path.read_bytes() == kept[path] for path in records if path not in lost)
    _same_means(read_json(output / "summary.json"), before)
    (output / "summary.json").unlink()
    assert evaluate_chapters.main(["--rescore", str(output)]) == 0
    _same_means(read_json(output / "summary.json"), before)
    capsys.readouterr()
    assert evaluate_chapters.main(["--compare", f"{output}:baseline", f"{output}:ttt"]) == 0
    assert "mean" in capsys.readouterr().out


def test_its_pairs_go_on_and_are_rescored_and_compared(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = written / "pairs"
    before = _accuracies(read_json(output / "summary.json"))
    parts = sorted(path for path in (output / "items").rglob("*") if path.is_file())
    parts[0].unlink()
    words = ["--config", str(output / "config.yaml"), IN_PROCESS, "--resume"]
    assert evaluate_pairs.main(words) == 0
    assert _accuracies(read_json(output / "summary.json")) == before
    assert evaluate_pairs.main(["--rescore", str(output)]) == 0
    assert _accuracies(read_json(output / "summary.json")) == before
    names = [f"{output}:baseline-paper", f"{output}:ttt-paper"]
    assert evaluate_pairs.main(["--compare", *names]) == 0
    assert "swuggy" in capsys.readouterr().out


def test_its_evaluation_of_everything_goes_on(written: Path) -> None:
    output = written / "all"
    before = read_json(output / "legacy.json")
    for record in (output / "chapters" / "records").rglob("*chapter_1*"):
        record.unlink()
    words = [IN_PROCESS, f"chapters.{IN_PROCESS}", f"pairs.{IN_PROCESS}", "--resume"]
    assert evaluate_all.main(["--config", str(output / "config.yaml"), *words]) == 0
    after = read_json(output / "legacy.json")
    assert after.keys() == before.keys()


def _losses(path: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_jsonl(path) if line["kind"] == "step"}


def _same_means(after: dict, before: dict) -> None:
    """Every mean of the whole-chapter loss, of every model."""
    found = [
        [loss["measures"]["mean"]["mean"] for loss in model["losses"].values()]
        for summary in (after, before)
        for model in summary["models"].values()
    ]
    half = len(found) // 2
    assert np.allclose(found[:half], found[half:], atol=1e-5)


def _accuracies(summary: dict) -> list[str]:
    return re.findall(r'"macro": \{"mean": [^,]*', json.dumps(summary))

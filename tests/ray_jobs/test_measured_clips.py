"""An evaluation goes on with the codec, data and audio that it began with."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.config.load import dump_yaml
from ray_jobs.config.workers import WorkersConfig
from ray_jobs.decoder.evaluate import clips as measured_clips
from ray_jobs.decoder.evaluate.plan import Plan
from ray_jobs.decoder.evaluate.run import evaluate
from ray_jobs.decoder.evaluate_config import EvaluateConfig, EvaluationDataConfig
from ray_jobs.decoder.source import DecoderSource
from ray_jobs.runtime.cli import Invocation
from tests.nano_cache import write_nano_cache
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.inputs import ClipInput, QualityConfig
from ttt.snac.evaluation.clips import CachedClip

CODEC = "c" * 64
IDS = ("a.wav", "b.wav", "c.wav")


def _folder(root: Path) -> Any:
    """A plan of three recordings, and the lines of all."""
    (root / "audio").mkdir()
    (root / "out").mkdir()
    for name in IDS:
        (root / "audio" / name).write_bytes(name.encode() * 9)
    items = tuple(ClipInput(name, source=str(root / "audio" / name)) for name in IDS)
    for item in items:
        source = FileIdentity.of(item.source).to_dict()
        measured_clips.note(root / "out", item.clip_id, CODEC, source)
    return SimpleNamespace(items=items, cache=None)


@pytest.mark.parametrize("clip_id", IDS)
@pytest.mark.parametrize("how", ["as long and as old", "longer", "emptied", "deleted"])
def test_replaced_audio_and_another_codec_are_refused_by_the_clip(
    tmp_path: Path, clip_id: str, how: str
) -> None:
    plan, path = _folder(tmp_path), tmp_path / "audio" / clip_id
    measured_clips.refuse_other(tmp_path / "out", plan, CODEC, IDS)
    with pytest.raises(UserError, match=r"a\.wav was measured with a codec of weights cccc"):
        measured_clips.refuse_other(tmp_path / "out", plan, "d" * 64, IDS)
    status, content = path.stat(), path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        new = {"as long and as old": content[::-1], "longer": content + b"!", "emptied": b""}
        path.write_bytes(new[how])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=f"the audio of {clip_id} has changed since"):
        measured_clips.refuse_other(tmp_path / "out", plan, CODEC, IDS)
    others = [name for name in IDS if name != clip_id]
    measured_clips.refuse_other(tmp_path / "out", plan, CODEC, others)


def test_clips_of_another_cache_are_refused(tmp_path: Path) -> None:
    first = write_nano_cache(tmp_path / "first", 3)
    cache = open_cache(first)
    items = tuple(CachedClip(name, row) for row, name in enumerate(cache.catalogue.clip_ids[:]))
    plan: Any = SimpleNamespace(items=items, cache=str(first))
    for item in items:
        source = {"crc32": cache.checksum(item.row)}
        measured_clips.note(tmp_path, item.clip_id, CODEC, source)
    ids = [item.clip_id for item in items]
    measured_clips.refuse_other(tmp_path, plan, CODEC, ids)
    plan.items = tuple(CachedClip(item.clip_id, 2 - item.row) for item in items)
    with pytest.raises(UserError, match="the audio of clip00 has changed since"):
        measured_clips.refuse_other(tmp_path, plan, CODEC, ids)


def test_clips_of_before_are_kept_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a line that was cut short does not spoil the next one."""
    plan, lines = _folder(tmp_path), tmp_path / "out" / measured_clips.LINES
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:1]) + '{"clip_id": "b')
    measured_clips.refuse_other(tmp_path / "out", plan, CODEC, IDS)
    assert capsys.readouterr().out.count("2 clips were measured before") == 1
    source = FileIdentity.of(plan.items[1].source).to_dict()
    measured_clips.note(tmp_path / "out", IDS[1], CODEC, source)
    Path(plan.items[1].source).write_bytes(b"another")
    with pytest.raises(UserError, match=r"b\.wav"):
        measured_clips.refuse_other(tmp_path / "out", plan, CODEC, IDS)
    lines.unlink()
    measured_clips.refuse_other(tmp_path / "out", plan, CODEC, IDS)
    assert "3 clips were measured before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data": EvaluationDataConfig(audio="other")}, "data.audio"),
        ({"data": EvaluationDataConfig(cache="first")}, "data.cache|data.audio"),
        ({"data": EvaluationDataConfig()}, "data.audio"),
        ({"quality": QualityConfig(min_seconds=1)}, "quality.min_seconds"),
        ({"quality": QualityConfig(silent_peak_db=-50)}, "quality.silent_peak_db"),
    ],
)
def test_other_data_or_quality_is_refused(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    def resume(config: EvaluateConfig) -> None:
        source = DecoderSource("absent", "absent", None, None, None)
        plan = Plan(config, source, "absent", "folder of audio", "first", None, ())
        evaluate(plan, Invocation(resume=True, address=None, config_path=""))

    output = tmp_path / "out"
    output.mkdir()
    audio = EvaluationDataConfig(audio="first")
    config = EvaluateConfig(decoder="absent", output=str(output), data=audio)
    (output / "config.yaml").write_text(dump_yaml(config))
    with pytest.raises(UserError, match=rf"made with ({key})="):
        resume(dataclasses.replace(config, **changes))
    free = {
        "data": dataclasses.replace(audio, limit=1),
        "cluster": WorkersConfig(num_workers=3),
        "min_coverage": 0.1,
    }
    with pytest.raises(UserError, match="absent: no such codec folder"):  # It is looked at next.
        resume(dataclasses.replace(config, **free))

"""A pair's recording replaced under its name is not the recording of its score."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from ray_jobs.moshi.evaluation import refuse_replaced_audio
from ray_jobs.moshi.pairs.run import JOB
from tests.ttt.eval.scored_pairs import item, made_pairs
from ttt.errors import UserError
from ttt.eval.pairs.find import Pair
from ttt.eval.pairs.records import part_path, read_part, write_part
from ttt.files.errors import FileIdentity

SIDES = ("positive", "negative")


class _Work(SimpleNamespace):
    def path(self, output: str) -> Path:
        return part_path(Path(output) / "items", "swuggy", self.part)


def _scored(folder: Path, *, noted: bool = True) -> Any:
    """A plan of two shards, both scored; the last recording has no score."""
    pairs = []
    for pair in made_pairs(clusters=3, voices=("A",)).pairs:
        sides = {side: getattr(pair, side) for side in SIDES}
        sides = {
            side: replace(each, audio=folder / "data" / each.item_id.replace("/", "_"))
            for side, each in sides.items()
        }
        pairs.append(replace(pair, **sides))
        for side, utterance in sides.items():
            utterance.audio.parent.mkdir(exist_ok=True)
            utterance.audio.write_bytes(f"{pair.pair_id} {side}".encode())
    work = [_Work(part=0, pairs=tuple(pairs[:2])), _Work(part=1, pairs=tuple(pairs[2:]))]
    plan = SimpleNamespace(config=SimpleNamespace(output=str(folder / "run")), work=work)
    for each in work:
        rows = [_row(pair, side, noted=noted) for pair in each.pairs for side in SIDES]
        write_part(each.path(plan.config.output), rows)
        assert read_part(each.path(plan.config.output)) == rows
    return plan


def _row(pair: Pair, side: Any, *, noted: bool) -> Any:
    scored = (pair.cluster_id, side) != ("dev/2", "negative")
    audio = FileIdentity.of(getattr(pair, side).audio) if noted and scored else None
    return replace(item(pair, side, 1.0 if scored else None), audio=audio)


def _file(plan: Any, number: int, side: str) -> Path:
    return getattr([pair for work in plan.work for pair in work.pairs][number], side).audio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.parametrize("how", ["as long and as old", "longer", "emptied", "deleted"])
@pytest.mark.parametrize(("number", "side"), [(0, "positive"), (1, "negative"), (2, "positive")])
def test_a_replaced_recording_is_refused_by_its_pair(
    folder: Path, number: int, side: str, how: str
) -> None:
    plan = _scored(folder)
    refuse_replaced_audio(JOB, plan)
    path = _file(plan, number, side)
    status, content = path.stat(), path.read_bytes()
    if how == "deleted":
        path.unlink()
    else:
        new = {"as long and as old": content[::-1], "longer": content + b"!", "emptied": b""}
        path.write_bytes(new[how])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match=rf"the {side} recording of pair dev/{number}/A of swuggy"):
        refuse_replaced_audio(JOB, plan)


def test_copies_lost_shards_and_recordings_without_a_score_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _scored(folder)
    for path in (folder / "data").iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    _file(plan, 2, "negative").write_bytes(b"mended")
    plan.work[0].path(plan.config.output).unlink()
    _file(plan, 0, "positive").write_bytes(b"another")
    refuse_replaced_audio(JOB, plan)
    assert capsys.readouterr().out == ""


def test_scores_of_before_stand_and_that_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _scored(folder, noted=False)
    for work in plan.work:  # As they were written before there was the column.
        path = work.path(plan.config.output)
        pq.write_table(pq.read_table(path).drop_columns(["audio"]), path)
    _file(plan, 0, "positive").write_bytes(b"another")
    refuse_replaced_audio(JOB, plan)
    assert "5 scores do not say of which files they are" in capsys.readouterr().out

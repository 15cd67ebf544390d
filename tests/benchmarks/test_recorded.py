"""The end of the recorded benchmark: the clips of all folds are judged at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import recorded
from ray_jobs.config.load import load_config
from ray_jobs.decoder.train_config import TrainConfig
from ttt import records
from ttt.snac.cache.inputs import ClipInput, QualityConfig
from ttt.snac.evaluate import Evaluator
from ttt.snac.evaluation.clips import ClipReader
from ttt.snac.evaluation.trick_levels import fit
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k


def test_the_clips_of_all_folds_are_judged_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = load_codec("tiny")
    decoder = Decoder48k.from_snac(codec.model).eval()
    reader = ClipReader(codec, None, QualityConfig())
    audio = tmp_path / "audio"
    audio.mkdir()
    for clip in range(6):
        noise = 0.1 * np.random.default_rng(clip).standard_normal(24_000)
        soundfile.write(audio / f"{clip}.wav", noise, 48_000)

    def run(folder: Path, recipe: recorded.Recipe) -> None:
        assert recipe == recorded.RECIPES["level"]
        lines = []
        for path in sorted((folder / "held_out").iterdir()):
            clip = reader.read(ClipInput(path.name, source=str(path)))
            row = Evaluator(decoder, codec).measure(clip)
            lines.append({"clip_id": path.name, "seconds": 0.5, "systems": records.finite(row)})
        (folder / "evaluation").mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "evaluation" / "results.jsonl").write_text(text)
        decoder.save_pretrained(
            folder / "run" / "export", tricks=fit([line["systems"] for line in lines])
        )

    monkeypatch.setattr(recorded, "_run", run)
    recorded.main(audio, tmp_path / "out", "level")
    summary = records.read_json(tmp_path / "out" / "summary.json")
    assert (summary["recipe"], summary["clips"]) == ("level", 6)
    assert summary["verdict"]["heading"] != "No verdict"
    assert summary["systems"]["ours_48k"]["lsd"]["n"] == 6
    assert len(summary["tricks_by_fold"]) == recorded.FOLDS
    printed = capsys.readouterr().out
    assert "The same + hiss, level from validation" in printed
    assert "6 clips" in printed


@pytest.mark.parametrize("name", recorded.RECIPES)
def test_every_recipe_is_a_configuration_that_loads(name: str) -> None:
    recipe, given = recorded.RECIPES[name], ["data.train=cache", "run=run"]
    config = load_config(TrainConfig, recipe.training, [*given, *recipe.changes])
    as_it_stands = load_config(TrainConfig, recipe.training, given)
    assert (config == as_it_stands) == (not recipe.changes)

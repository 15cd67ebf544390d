"""A whole evaluation on two recordings: results, summary, page, card, resume and refusals."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs import evaluate_decoder
from ray_jobs.config.workers import WorkersConfig
from ray_jobs.decoder.evaluate import plan as evaluation_plan
from ray_jobs.decoder.evaluate import visqol_pass
from ray_jobs.decoder.evaluate.plan import describe, plan_evaluation
from ray_jobs.decoder.evaluate_config import (
    BootstrapConfig,
    EvaluateConfig,
    EvaluationDataConfig,
    ReportConfig,
)
from ray_jobs.reports import decoder as decoder_report
from ray_jobs.reports.examples import read_examples
from ray_jobs.runtime.items import HereWorker
from tests.jobs import run_decoder_evaluation
from ttt.audio import to_int16
from ttt.errors import UserError
from ttt.snac.cache.inputs import ClipInput
from ttt.snac.evaluate import Evaluator
from ttt.snac.evaluation.card import card
from ttt.snac.evaluation.clips import ClipReader
from ttt.snac.evaluation.systems import FOLDING_HISS, HISS, OURS_WITHOUT_FLOOR, TRUE
from ttt.snac.evaluation.trick_levels import GRID, FittedTricks
from ttt.snac.evaluation.visqol import is_installed
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.verdict import BASELINE, CEILING, METRIC_NAMES, OURS, SILENCE, summarize


@dataclasses.dataclass
class Evaluated:
    config: EvaluateConfig
    output: Path
    export: Path

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in (self.output / "results.jsonl").open()]

    def summary(self) -> dict:
        return json.loads((self.output / "summary.json").read_text())


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory,
    small_codec: Path,
    small_export: Path,
    recordings: Path,
) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluation")
    export = shutil.copytree(small_export, folder / "export")
    config = EvaluateConfig(
        decoder=str(export),
        codec=str(small_codec),
        output=str(folder / "out"),
        data=EvaluationDataConfig(audio=str(recordings)),
        min_coverage=0.5,
        bootstrap=BootstrapConfig(resamples=200),
        report=ReportConfig(examples=2, example_seconds=0.5),
        cluster=WorkersConfig(num_workers=0),
    )
    run_decoder_evaluation(config)
    return Evaluated(config, folder / "out", export)


def test_every_input_has_a_line_or_a_reason(evaluated: Evaluated) -> None:
    lines, summary = evaluated.lines(), evaluated.summary()
    assert [line["clip_id"] for line in lines] == ["a/0.wav", "a/1.wav"]
    assert list(lines[0]["systems"]) == [OURS, BASELINE, CEILING, SILENCE, GRID]
    assert lines[0]["seconds"] == 45_000 / 48_000
    data = summary["data"]
    assert (data["wanted"], data["evaluated"], data["coverage"]) == (3, 2, 2 / 3)
    (left_out,) = data["left_out"]
    assert left_out["clip_id"] == "broken.wav"
    assert left_out["reason"].startswith("unreadable: ")


def test_summary_is_the_mean_of_the_lines_with_its_origin(evaluated: Evaluated) -> None:
    lines, summary = evaluated.lines(), evaluated.summary()
    for system in (OURS, BASELINE, CEILING):
        for metric in METRIC_NAMES:
            values = [line["systems"][system][metric] for line in lines]
            found = summary["systems"][system][metric]
            assert found["mean"] == pytest.approx(sum(values) / 2)
            assert found["low"] is None
            assert found["reason"] == "2 clips; an interval needs 5"
            assert found["n"] == 2
    assert summary["verdict"]["heading"] == "No verdict"
    assert summary["units"] == {
        "kind": "clip",
        "count": 2,
        "sentence": summary["units"]["sentence"],
    }
    assert "hiss" in summary["systems"]
    assert summary["tricks"]["validation"] is None
    ours = sum(line["systems"][OURS]["lsd"] for line in lines)
    baseline = sum(line["systems"][BASELINE]["lsd"] for line in lines)
    ratio = summary["ratios_to_resampled_decode24"]["lsd"]
    assert ratio["mean"] == pytest.approx(ours / baseline)
    assert len(summary["decoder"]["sha256"]) == 64
    assert {line["decoder"] for line in lines} == {summary["decoder"]["sha256"]}
    made = summary["provenance"]
    assert made["config_digest"] == evaluated.config.digest()
    assert made["versions"]["torch"]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.counts: dict[str, int] = {}
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "poster", "action"):
                self.addresses.append(value or "")


def test_the_page_opens_offline_and_shows_everything(evaluated: Evaluated) -> None:
    text = (evaluated.output / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.ids == ["results", "examples", "clips", "left-out", "origin"]
    assert page.counts["img"] == 2
    assert page.counts["audio"] == 2 * 5, "the strongest trick is heard among them"
    assert all(address.startswith("data:") for address in page.addresses)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    for words in ("a/0.wav", "a/1.wav", "broken.wav", evaluated.summary()["decoder"]["sha256"]):
        assert words in text
    assert evaluated.summary()["verdict"]["heading"] in text


def test_what_the_page_plays_lies_beside_it(evaluated: Evaluated) -> None:
    best, worst = read_examples(evaluated.output / "examples")
    assert {best.clip_id, worst.clip_id} == {"a/0.wav", "a/1.wav"}
    assert best.place.startswith("best of 2: LSD")
    level = FittedTricks.from_dict(evaluated.summary()["tricks"]["here"]).folding_hiss
    codec = load_codec(evaluated.config.codec or "")
    reader = ClipReader(codec, None, evaluated.config.quality)
    evaluator = Evaluator(Decoder48k.from_pretrained(evaluated.export), codec)
    for example in (best, worst):
        (path,) = Path(evaluated.config.data.audio or "").glob(example.clip_id)
        clip = reader.read(ClipInput(example.clip_id, source=str(path)))
        passage = evaluator.passage(clip, 0.5, {FOLDING_HISS: level})
        assert set(example.audio) == {TRUE, OURS, BASELINE, FOLDING_HISS, CEILING}
        assert example.start_seconds == passage.start_seconds
        for system, audio in example.audio.items():
            assert len(audio) == 24_000
            assert np.array_equal(audio, passage.audio[system]), system
        begin = int(example.start_seconds * 48_000)
        whole = evaluator.render(clip)[OURS]
        assert np.array_equal(example.audio[OURS], to_int16(whole[begin : begin + 24_000]))
        added = example.audio[FOLDING_HISS].astype(float) - example.audio[BASELINE]
        assert np.abs(added).max() > 0


@pytest.mark.skipif(not is_installed(), reason="ViSQOL is not installed: make setup METRICS=1")
def test_visqol_stands_beside_the_verdict_for_every_row_that_has_a_score(
    evaluated: Evaluated,
) -> None:
    first, second = evaluated.lines()
    assert "visqol" not in first, "it is shorter than the second that ViSQOL needs"
    visqol = evaluated.summary()["visqol"]
    assert set(second["visqol"]) == {OURS, BASELINE, CEILING, HISS, FOLDING_HISS}
    for system, score in second["visqol"].items():
        assert 1 <= score <= 4.74
        assert visqol["systems"][system]["mean"] == pytest.approx(score)
        assert visqol["systems"][system]["n"] == 1
    page = (evaluated.output / "report.html").read_text()
    for text in (page, (evaluated.export / "README.md").read_text()):
        assert "ViSQOL (a predicted opinion" in text
        assert f"{second['visqol'][OURS]:.3f}" in text
    assert not any("ViSQOL" in sentence for sentence in evaluated.summary()["verdict"]["sentences"])


def test_visqol_that_is_asked_for_and_not_there_is_refused_first(
    evaluated: Evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_plan, "is_installed", lambda: False)
    wanted = ReportConfig(visqol=True)
    config = dataclasses.replace(evaluated.config, output=str(tmp_path / "out"), report=wanted)
    with pytest.raises(UserError, match=r"report.visqol is true, but it is not .*METRICS=1"):
        run_decoder_evaluation(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "visqol, reason",
    [("auto", "it is not installed (make setup METRICS=1)"), (False, "report.visqol is false")],
)
def test_visqol_that_was_not_measured_is_named_with_its_reason(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch, visqol: Any, reason: str
) -> None:
    monkeypatch.setattr(visqol_pass, "is_installed", lambda: False)
    config = dataclasses.replace(evaluated.config, report=ReportConfig(visqol=visqol))
    summary, lines = evaluated.summary(), evaluated.lines()
    summary["visqol"] = visqol_pass.visqol_of(config, lines, summary["verdict"])
    sentence = f"ViSQOL was not measured: {reason}."
    assert sentence in decoder_report.build_report(summary, lines, [], [])
    assert sentence in card(summary)
    del summary["visqol"]  # as earlier commits wrote it
    assert "ViSQOL was not measured" in decoder_report.build_report(summary, lines, [], [])


def test_a_page_whose_verdict_visqol_contradicts_says_so_at_its_head(evaluated: Evaluated) -> None:
    summary = evaluated.summary()
    summary["visqol"] = {"sentence": "This contradicts the verdict.", "contradicts": True}
    page = decoder_report.build_report(summary, evaluated.lines(), [], [])
    assert page.index("This contradicts the verdict.") < page.index("Clips measured")


def test_the_page_refuses_lsd_alone(evaluated: Evaluated) -> None:
    with pytest.raises(ValueError, match="won by noise: show l1 and lsd_lf beside it"):
        decoder_report.build_report(
            evaluated.summary(), evaluated.lines(), [], [], metrics=("lsd_hf",)
        )


def test_the_page_shows_the_tricks_and_where_their_levels_come_from(evaluated: Evaluated) -> None:
    text = (evaluated.output / "report.html").read_text()
    assert "The same + folding + hiss, levels from these clips" in text
    assert "Levels from these clips (2 of them): hiss -" in text
    assert "Levels from the run&#x27;s validation windows: none" in text or (
        "Levels from the run's validation windows: none" in text
    )
    assert "LSD-HF, ours / best hiss" in text
    assert "Who speaks is unknown" in text


def test_lines_from_before_the_tricks_give_a_page_that_says_so(evaluated: Evaluated) -> None:
    """As commit 8b30563 wrote them: five clips, so that there would be a verdict."""
    systems = {
        system: {name: 1.0 for name in METRIC_NAMES if name != "env_r"}
        for system in (OURS, BASELINE, CEILING)
    }
    systems[OURS]["lsd"] = 0.5
    lines = [{"clip_id": str(n), "seconds": 1.0, "systems": systems} for n in range(5)]
    summary = evaluated.summary()
    summary.update(summarize([systems] * 5, 0, 100))
    assert summary["verdict"]["kind"] == "mixed"
    page = decoder_report.build_report(summary, lines, [], [])
    assert "hiss and folding were not measured beside it" in page
    assert "not measured" in card(summary)


def test_the_page_refuses_lsd_hf_without_its_offset_alone(evaluated: Evaluated) -> None:
    shown = ("lsd_hf_shape", "lsd_lf", "l1")
    with pytest.raises(ValueError, match="does not see the level: show lsd_hf beside it"):
        decoder_report.build_report(evaluated.summary(), evaluated.lines(), [], [], metrics=shown)


def test_what_was_measured_before_the_offset_was_taken_out_says_so(evaluated: Evaluated) -> None:
    """And of the tricks, whose grids do not hold it, in every evaluation."""
    lines = evaluated.lines()
    for line in lines:
        for system, row in line["systems"].items():
            if system != GRID:
                del row["lsd_hf_shape"]
    summary = {**evaluated.summary(), **summarize([line["systems"] for line in lines], 0, 100)}
    found = {name: row["lsd_hf_shape"] for name, row in summary["systems"].items()}
    assert {row["reason"] for row in found.values()} == {"not measured"}
    assert {row["mean"] for row in found.values()} == {None}
    assert "not measured" in decoder_report.build_report(summary, lines, [], [])
    tricks = evaluated.summary()["systems"][HISS]
    assert tricks["lsd_hf_shape"]["reason"] == "not measured"
    assert tricks["lsd_hf"]["mean"] is not None


def test_a_floor_has_its_row_in_every_table_and_is_switched_off_by_one_key(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    decoder = Decoder48k.from_pretrained(evaluated.export)
    decoder.noise_floor = NoiseFloor((-60.0,) * 16)
    decoder.save_pretrained(tmp_path / "export")
    config = dataclasses.replace(
        evaluated.config,
        decoder=str(tmp_path / "export"),
        output=str(tmp_path / "out"),
        report=dataclasses.replace(evaluated.config.report, examples=0, visqol=False),
    )
    run_decoder_evaluation(config)
    with_floor = Evaluated(config, tmp_path / "out", tmp_path / "export")
    summary, name = with_floor.summary(), "Ours, without its noise floor"
    assert list(summary["systems"])[:2] == [OURS, OURS_WITHOUT_FLOOR]
    before = evaluated.summary()["systems"][OURS]
    assert summary["systems"][OURS_WITHOUT_FLOOR] == before
    assert summary["systems"][OURS]["lsd_hf"]["mean"] != before["lsd_hf"]["mean"]
    assert summary["decoder"]["noise_floor"] == "-60 to -60 dB in 16 of 16 bands"
    page = (with_floor.output / "report.html").read_text()
    assert page.count(name) == 2, "in the table and of every clip"
    assert "-60 to -60 dB in 16 of 16 bands" in page
    assert name in (with_floor.export / "README.md").read_text()
    lsd = [line["systems"][OURS]["lsd"] for line in with_floor.lines()]
    ratio = summary["ratios_to_resampled_decode24"]["lsd"]["mean"]
    baseline = [line["systems"][BASELINE]["lsd"] for line in with_floor.lines()]
    assert ratio == pytest.approx(sum(lsd) / sum(baseline)), "the verdict is on ours with it"
    off = dataclasses.replace(config, noise_floor=False)
    with pytest.raises(UserError, match="noise_floor=True, and now it is False"):
        run_decoder_evaluation(off, resume=True)
    card_with_floor = (with_floor.export / "README.md").read_bytes()
    run_decoder_evaluation(dataclasses.replace(off, output=str(tmp_path / "off")))
    assert (with_floor.export / "README.md").read_bytes() == card_with_floor
    without = Evaluated(off, tmp_path / "off", tmp_path / "export").summary()
    assert without["systems"] == evaluated.summary()["systems"]
    assert without["decoder"]["noise_floor"] is None
    decoder.noise_floor = NoiseFloor((-61.0,) * 16)
    decoder.save_pretrained(tmp_path / "export")
    with pytest.raises(UserError, match="holds results of another decoder or noise floor"):
        run_decoder_evaluation(config, resume=True)


def test_training_curves_come_from_the_history(evaluated: Evaluated) -> None:
    row = {"lsd": 2.0, "lsd_lf": 1.0, "l1": 0.1}
    history = [
        {"kind": "validation", "step": 0, "loss": 3.0, "rows": {OURS: row, BASELINE: row}},
        {"kind": "step", "step": 1, "phase": 1, "loss": None},
        {"kind": "step", "step": 2, "phase": 2, "loss": 2.0},
        {"kind": "validation", "step": 2, "loss": 2.5, "rows": {OURS: row, BASELINE: row}},
        {"kind": "checkpoint", "step": 2, "name": "step-00000002"},
    ]
    page = _Page()
    page.feed(decoder_report.build_report(evaluated.summary(), evaluated.lines(), [], history))
    assert "training" in page.ids
    assert page.counts["img"] == 4


def test_the_export_carries_its_numbers(evaluated: Evaluated) -> None:
    text = (evaluated.export / "README.md").read_text()
    assert "from ttt.snac.model import Decoder48k" in text
    assert evaluated.summary()["verdict"]["heading"] in text
    mean = evaluated.summary()["systems"][OURS]["lsd"]["mean"]
    assert f"{mean:.3f} (no interval)" in text
    Decoder48k.from_pretrained(evaluated.export)


def test_resume_keeps_what_is_measured_and_ends_with_the_same_bytes(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    output = shutil.copytree(evaluated.output, tmp_path / "out")
    results = output / "results.jsonl"
    before = results.read_bytes()
    first, second = before.splitlines(keepends=True)
    results.write_bytes(first + second[:40])  # killed while writing the second line
    quick = ReportConfig(examples=0, write_card=False)
    config = dataclasses.replace(evaluated.config, output=str(output), report=quick)
    run_decoder_evaluation(config, resume=True)
    assert results.read_bytes() == before


def test_scores_of_visqol_stay_where_it_is_switched_off() -> None:
    scored: dict[str, Any] = {"clip_id": "a", "visqol": {OURS: 4.0}}
    bare: dict[str, Any] = {"clip_id": "b"}
    config = EvaluateConfig(
        decoder="d",
        output="o",
        data=EvaluationDataConfig(audio="a"),
        report=ReportConfig(visqol=False),
    )
    scores = visqol_pass.score_clips(config, [], [scored, bare], {}, HereWorker(object))
    assert visqol_pass.with_scores([scored, bare], scores) == [scored, bare]
    assert visqol_pass.with_scores([scored, bare], {"b": {OURS: 3.0}}) == [
        {"clip_id": "a"},
        {"clip_id": "b", "visqol": {OURS: 3.0}},
    ]


def test_an_output_in_use_or_of_another_decoder_is_refused(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"out: not empty .* continue that run with --resume"):
        run_decoder_evaluation(evaluated.config)
    output = shutil.copytree(evaluated.output, tmp_path / "out")
    lines = evaluated.lines()
    (output / "results.jsonl").write_text(json.dumps({**lines[0], "decoder": "other"}) + "\n")
    config = dataclasses.replace(evaluated.config, output=str(output))
    with pytest.raises(UserError, match=r"results\.jsonl: holds results of another decoder"):
        run_decoder_evaluation(config, resume=True)


def test_cache_and_folder_give_the_same_numbers(
    ray_local: None, evaluated: Evaluated, small_cache: Path, tmp_path: Path
) -> None:
    """The one on Ray, the other in this process."""
    config = dataclasses.replace(
        evaluated.config,
        cluster=WorkersConfig(num_workers=1),
        data=EvaluationDataConfig(cache=str(small_cache)),
        output=str(tmp_path / "out"),
        report=ReportConfig(examples=0, write_card=False),
        min_coverage=1.0,
    )
    run_decoder_evaluation(config)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == (
        evaluated.output / "results.jsonl"
    ).read_bytes()


def test_too_little_coverage_fails_with_everything_written(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        evaluated.config,
        output=str(tmp_path / "out"),
        report=ReportConfig(examples=0, write_card=False, visqol=False),
        min_coverage=0.9,
    )
    with pytest.raises(UserError, match=r"2 of 3 clips could be measured, min_coverage is 0\.9"):
        run_decoder_evaluation(config)
    assert (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out" / "summary.json").exists()


def test_what_does_not_fit_is_refused_before_any_work(
    small_codec: Path, small_export: Path, recordings: Path, tmp_path: Path
) -> None:
    def refused(sentence: str, **changes: object) -> None:
        config = EvaluateConfig(
            **{
                "decoder": str(small_export),
                "output": str(tmp_path / "out"),
                "codec": str(small_codec),
                "data": EvaluationDataConfig(audio=str(recordings)),
                **changes,
            }
        )
        with pytest.raises(UserError, match=sentence):
            describe(plan_evaluation(config))

    refused("no such folder; give an export or the folder of a training run", decoder="absent")
    refused("neither an exported decoder .* nor a training run", decoder=str(recordings))
    refused("does not say its codec by name; set codec", codec=None)
    refused("is not part of a training run with held-out", data=EvaluationDataConfig())
    (tmp_path / "empty").mkdir()
    nothing = EvaluationDataConfig(audio=str(tmp_path / "empty"))
    refused("holds no audio file", data=nothing)
    with pytest.raises(ValueError, match="audio and cache are both set"):
        EvaluationDataConfig(audio="a", cache="b")
    with pytest.raises(ValueError, match="speaker has no effect without audio"):
        EvaluationDataConfig(cache="b", speaker="folder:1")
    with pytest.raises(ValueError, match="speaker must be null or folder:N"):
        EvaluationDataConfig(audio="a", speaker="folder:0")
    with pytest.raises(ValueError, match="example_seconds must lie between"):
        ReportConfig(example_seconds=0)


def test_workers_that_fit_no_node_are_refused_at_once(
    ray_local: None, evaluated: Evaluated, tmp_path: Path
) -> None:
    """They would wait for ever; the clips that are done already need none."""
    for cluster, room in (
        (WorkersConfig(gpus_per_worker=1), "1 worker of 1 CPU and 1 GPU .* room for 0; lower"),
        (WorkersConfig(cpus_per_worker=1.5, num_workers=2), "2 workers of 1.5 CPU .* room for 1;"),
    ):
        output = tmp_path / room[:9]
        config = dataclasses.replace(evaluated.config, output=str(output), cluster=cluster)
        with pytest.raises(UserError, match=room):
            run_decoder_evaluation(config)


def test_a_decoder_of_another_codec_is_refused(
    small_codec: Path, recordings: Path, tmp_path: Path
) -> None:
    decoder = Decoder48k.from_snac(load_codec(small_codec).model)
    decoder.codec_sha256 = "0" * 64
    decoder.save_pretrained(tmp_path / "export")
    config = EvaluateConfig(
        decoder=str(tmp_path / "export"),
        output=str(tmp_path / "out"),
        codec=str(small_codec),
        data=EvaluationDataConfig(audio=str(recordings)),
    )
    with pytest.raises(UserError, match="made from a codec with weights 000000000000"):
        run_decoder_evaluation(config)


def test_dry_run_prints_the_plan(
    small_codec: Path,
    small_export: Path,
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "--config=configs/evaluate_decoder.yaml",
        f"decoder={small_export}",
        f"codec={small_codec}",
        f"data.audio={recordings}",
        f"output={tmp_path / 'out'}",
    ]
    assert evaluate_decoder.main([*arguments, "--dry-run"]) == 0
    assert f"measure folder of audio {recordings}, clips: 3\n" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert evaluate_decoder.main([*arguments, "data.audio=absent"]) == 2
    assert "error: absent: no such folder" in capsys.readouterr().err

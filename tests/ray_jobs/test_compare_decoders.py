"""Two decoders measured on the same clips: each as alone, then paired; resume and refusals."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from ray_jobs import evaluate_decoder
from ray_jobs.decoder.evaluate import several
from ray_jobs.decoder.evaluate_config import (
    EvaluationDataConfig,
    ReportConfig,
)
from ray_jobs.reports.examples import read_examples
from tests.hub_server import HubServer
from tests.jobs import run_decoder_evaluation
from tests.ray_jobs.compared_decoders import CLIPS, Compared
from ttt.errors import UserError
from ttt.records import read_json
from ttt.snac.evaluation.systems import BASELINE, CEILING, METRIC_NAMES, OURS, TRUE
from ttt.snac.model import Decoder48k
from ttt.snac.noise_floor import NoiseFloor
from ttt.statistics.intervals import clustered_ratio_interval


def test_each_is_measured_as_it_is_alone(compared: Compared, tmp_path: Path) -> None:
    alone = dataclasses.replace(
        compared.config,
        decoder=str(compared.exports[1]),
        output=str(tmp_path / "out"),
    )
    run_decoder_evaluation(alone)
    inside = compared.output / "B"
    assert {path.name for path in inside.iterdir()} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    for name in ("results.jsonl", "examples/examples.json", "examples/1/ours_48k.flac"):
        assert (inside / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    ours, theirs = (read_json(each / "summary.json") for each in (inside, tmp_path / "out"))
    for summary in (ours, theirs):
        del summary["provenance"]
    assert ours == theirs
    assert not (tmp_path / "out" / "comparison.md").exists()


def test_the_comparison_is_paired_over_the_clips_of_both(compared: Compared) -> None:
    summary = read_json(compared.output / "summary.json")
    first, second = compared.lines("A"), compared.lines("B")
    (found,) = summary["comparisons"]
    assert (found["first"], found["second"]) == ("A", "B")
    lsd = {
        letter: [line["systems"][OURS]["lsd"] for line in lines]
        for letter, lines in (("A", first), ("B", second))
    }
    expected = clustered_ratio_interval(lsd["B"], lsd["A"], range(CLIPS), 0, 200, "clip")
    assert found["metrics"][0]["interval"] == pytest.approx(expected.to_dict())
    assert expected.low is not None
    for letter, decoder in summary["decoders"].items():
        mean = summary["systems"][letter]["lsd"]["mean"]
        assert mean == pytest.approx(np.mean(lsd[letter]))
        own = read_json(compared.output / letter / "summary.json")
        assert decoder["verdict"] == own["verdict"]["heading"]
        assert decoder["sha256"] == own["decoder"]["sha256"]
    assert set(summary["systems"]) == {"A", "B", BASELINE, CEILING}
    data = summary["data"]
    assert (data["wanted"], data["compared"], data["coverage"]) == (7, 6, 6 / 7)
    (left_out,) = data["left_out"]
    assert left_out["clip_id"] == "broken.wav"
    assert left_out["reason"].startswith("unreadable: ")
    assert summary["provenance"]["config_digest"] == compared.config.digest()


def test_the_page_shows_both_and_leads_to_each(compared: Compared) -> None:
    page = (compared.output / "report.html").read_text()
    summary = read_json(compared.output / "summary.json")
    verdict = summary["comparisons"][0]["verdict"]
    for words in (verdict["heading"], *verdict["sentences"], *METRIC_NAMES.values()):
        assert words in page
    for letter in "AB":
        assert f'href="{letter}/report.html"' in page
        assert (compared.output / letter / "report.html").exists()
        assert summary["decoders"][letter]["sha256"] in page
    examples = read_examples(compared.output / "examples")
    assert len(examples) == 2
    for example in examples:
        assert set(example.audio) == {TRUE, BASELINE, CEILING, "A", "B"}
        assert np.abs(example.audio["A"].astype(int) - example.audio["B"]).max() > 0
    assert page.count("<audio") == 2 * 5
    assert f"**{verdict['heading']}.**" in (compared.output / "comparison.md").read_text()


def test_resume_measures_what_is_missing_and_ends_with_the_same(
    compared: Compared, tmp_path: Path
) -> None:
    output = shutil.copytree(compared.output, tmp_path / "out")
    shutil.rmtree(output / "examples")
    (output / "summary.json").unlink()
    results = output / "B" / "results.jsonl"
    before = results.read_bytes()
    results.write_bytes(b"".join(before.splitlines(keepends=True)[:3]))
    config = dataclasses.replace(compared.config, output=str(output))
    with pytest.raises(UserError, match="not empty"):
        run_decoder_evaluation(config)
    run_decoder_evaluation(config, resume=True)
    assert results.read_bytes() == before
    again, first = (read_json(each / "summary.json") for each in (output, compared.output))
    for key in ("comparisons", "systems", "units", "data"):
        assert again[key] == first[key]
    swapped = dataclasses.replace(config, decoder=tuple(map(str, reversed(compared.exports))))
    with pytest.raises(UserError, match=r"A/results.jsonl: holds results of another decoder"):
        run_decoder_evaluation(swapped, resume=True)


def test_a_floor_of_one_alone_is_said(compared: Compared, tmp_path: Path) -> None:
    decoder = Decoder48k.from_pretrained(compared.exports[0])
    decoder.noise_floor = NoiseFloor((-60.0,) * 16)
    decoder.save_pretrained(tmp_path / "floor")
    config = dataclasses.replace(
        compared.config,
        decoder=(str(compared.exports[0]), str(tmp_path / "floor")),
        output=str(tmp_path / "out"),
        report=ReportConfig(examples=0, visqol=False, write_card=False),
    )
    run_decoder_evaluation(config)
    (found,) = read_json(tmp_path / "out" / "summary.json")["comparisons"]
    caution = found["verdict"]["sentences"][-1]
    assert caution.startswith("Only B has a noise floor, and constant noise alone lowers LSD")


def test_one_from_the_hub_is_compared_as_the_folder_it_was_pushed_from(
    compared: Compared, tmp_path: Path, hub: HubServer
) -> None:
    ours = Decoder48k.from_pretrained(compared.exports[1])
    ours.push_to_hub("anna/two", license="mit")
    config = dataclasses.replace(
        compared.config,
        decoder=(str(compared.exports[0]), "anna/two@main"),
        output=str(tmp_path / "out"),
        report=ReportConfig(examples=0, listening_clips=0, visqol=False, write_card=False),
    )
    run_decoder_evaluation(config)
    found = read_json(tmp_path / "out" / "summary.json")
    first = read_json(compared.output / "summary.json")
    for key in ("systems", "units"):
        assert found[key] == first[key]
    assert found["comparisons"][0]["metrics"] == first["comparisons"][0]["metrics"]
    commit = hub.repositories["anna/two"].head[:12]
    assert found["decoders"]["B"]["source"] == f"export on the hub (commit {commit})"
    again = dataclasses.replace(config, decoder=("anna/two", str(compared.exports[1])))
    with pytest.raises(UserError, match=r"are the same decoder \(weights"):
        several.plan(again)


def test_what_cannot_be_compared_is_refused_before_any_work(
    compared: Compared, tmp_path: Path
) -> None:
    one, two = map(str, compared.exports)
    shutil.copytree(one, tmp_path / "copy")
    other = Decoder48k.from_pretrained(one)
    other.codec_sha256 = "0" * 64
    other.save_pretrained(tmp_path / "other")

    def refused(sentence: str, *decoders: str, **changes: object) -> None:
        config = dataclasses.replace(
            compared.config, decoder=decoders, output=str(tmp_path / "out"), **changes
        )
        with pytest.raises(UserError, match=sentence) as error:
            several.plan(config)
        assert "\n" not in str(error.value)

    refused("one twice .*; name two that differ", one, one)
    refused("one twice .*; name two that differ", one, two, f"{compared.exports[0].parent}/./one")
    refused(r"are the same decoder \(weights", one, str(tmp_path / "copy"))
    refused("decoders of different codecs .*0{12}.*; only decoders", one, str(tmp_path / "other"))
    refused("absent: no such folder", one, "absent")
    refused("is not part of a training run", one, two, data=EvaluationDataConfig())
    for decoders in ((), (one,), ("d",) * 27):
        with pytest.raises(ValueError, match="decoder must be one, or a list of 2 to 26"):
            dataclasses.replace(compared.config, decoder=decoders)


def test_a_codec_of_neither_is_refused_and_leaves_nothing(
    compared: Compared, tmp_path: Path, small_codec: Path
) -> None:
    exports = []
    for number, export in enumerate(compared.exports):
        decoder = Decoder48k.from_pretrained(export)
        decoder.codec_sha256 = "0" * 64
        exports.append(str(tmp_path / str(number)))
        decoder.save_pretrained(exports[-1])
    config = dataclasses.replace(
        compared.config, decoder=tuple(exports), output=str(tmp_path / "out")
    )
    with pytest.raises(UserError, match="made from a codec with weights 000000000000"):
        run_decoder_evaluation(config)
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left in ([], [".lock"])


def test_runs_that_held_out_different_clips_want_data(compared: Compared, tmp_path: Path) -> None:
    runs = []
    for number, export in enumerate(compared.exports):
        run = tmp_path / f"run{number}"
        shutil.copytree(export, run / "export")
        (run / "checkpoints").mkdir()
        (run / "config.yaml").write_text(
            f"run: {run}\ncodec: tiny\ndata: {{train: cache{number}}}\n"
        )
        runs.append(str(run))
    config = dataclasses.replace(
        compared.config, decoder=tuple(runs), data=EvaluationDataConfig(), codec=None
    )
    with pytest.raises(UserError, match=r"held out different clips; set data.audio or data.cache"):
        several.plan(config)


def test_the_command_takes_a_list(
    compared: Compared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = compared.exports
    arguments = [
        "--config=configs/evaluate_decoder.yaml",
        f"decoder=[{one}, {two}]",
        f"codec={compared.config.codec}",
        f"data.audio={compared.config.data.audio}",
        f"output={tmp_path / 'out'}",
        "--dry-run",
    ]
    assert evaluate_decoder.main(arguments) == 0
    told = capsys.readouterr().out
    assert told.startswith("compare B with A clip by clip\nA: measure folder of audio ")
    assert f"{tmp_path}/out/B/results.jsonl" in told
    assert "listening.html; keep listening_key.json, without it no answer" in told
    assert not (tmp_path / "out").exists()
    arguments[1] = f"decoder=[{one}, {one}]"
    assert evaluate_decoder.main(arguments) == 2
    assert "name two that differ" in capsys.readouterr().err

"""Chapters and pairs in one run: one summary, one report, each part also a run of its own."""

import json
import re
from pathlib import Path

import pytest

from ray_jobs import evaluate_all
from ray_jobs.config.load import ConfigError, dump_yaml, load_config
from ray_jobs.moshi import evaluation
from ray_jobs.moshi.all_config import EvaluateAllConfig
from ray_jobs.moshi.chapters import run as chapter_pool
from ttt.errors import UserError
from ttt.records import read_json
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

ROOT = Path(__file__).resolve().parents[2]
ALL = ROOT / "configs" / "evaluate_all.yaml"
SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fixtures(tmp_path_factory.mktemp("pairs"), say_by_arithmetic)["swuggy"]


def overrides(words: Path, output: Path) -> list[str]:
    none = [f"pairs.tasks.{name}=null" for name in ("sblimp", "tstory", "sstory", "salmon")]
    return [
        f"output={output}",
        "model.weights=tiny",
        "model.mimi=tiny",
        "model.dtype=float32",
        f"model.lm_kwargs={json.dumps(SHAPE)}",
        "cluster.gpus_per_worker=0",
        "chapters.data=null",
        "chapters.synthetic={chapters: 2, speakers: 2, frames: 60}",
        "chapters.streams.other=masked",
        "chapters.summary={positions: [30], window_frames: 20, resamples: 50}",
        f"paper_metrics.swuggy_audio_dir={words}",
        "paper_metrics.swuggy_max_pairs=5",
        "pairs.summary.resamples=50",
        *none,
    ]


@pytest.fixture(scope="module")
def evaluated(ray_local: None, tmp_path_factory: pytest.TempPathFactory, words: Path) -> list[str]:
    """The arguments of a finished run."""
    output = tmp_path_factory.mktemp("run") / "out"
    arguments = ["--config", str(ALL), *overrides(words, output)]
    assert evaluate_all.main(arguments) == 0
    return arguments


def output_of(arguments: list[str]) -> Path:
    return Path(next(word for word in arguments if word.startswith("output=")).partition("=")[2])


def test_one_summary_and_one_report(evaluated: list[str]) -> None:
    output = output_of(evaluated)
    summary = read_json(output / "summary.json")
    for name in ("chapters", "pairs"):
        assert summary[name] == read_json(output / name / "summary.json")
    assert summary["chapters"]["models"]["baseline"]["chapters"] == 2
    assert summary["pairs"]["runs"]["baseline-paper"]["tasks"]["swuggy"]["scored"] == 5
    legacy = read_json(output / "legacy.json")
    assert legacy["librilight_samples"] == 2
    assert legacy["swuggy_samples"] == 5
    assert legacy["sblimp_accuracy"] is None
    assert legacy["paper_metrics_avg"] is None
    html = (output / "report.html").read_text()
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {"overview", "part-chapters-origin", "part-pairs-origin"} <= set(ids)
    assert not re.search(r"https?://", html)


def test_recomputing_and_resuming_need_no_ray(
    evaluated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = output_of(evaluated)
    before = (output / "summary.json").read_bytes()
    (output / "summary.json").unlink()

    def no_ray(*_: object) -> None:
        raise AssertionError("a finished run needs no Ray")

    monkeypatch.setattr(evaluation, "worker_session", no_ray)
    assert evaluate_all.main(["--rescore", str(output)]) == 0
    assert (output / "summary.json").read_bytes() == before
    assert evaluate_all.main([*evaluated, "--resume"]) == 0
    assert (output / "summary.json").read_bytes() == before
    assert evaluate_all.main(["--rescore", str(output / "pairs" / "plots")]) == 2


def test_one_part_that_fails_leaves_the_other(
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(chapter_pool, "evaluate", full)
    here = [*overrides(words, tmp_path / "out"), "cluster.num_workers=0"]
    assert evaluate_all.main(["--config", str(ALL), *here]) == 2
    assert capsys.readouterr().err.endswith("error: chapters: the disk is full\n")
    assert list(read_json(tmp_path / "out" / "summary.json")) == ["pairs"]
    assert "part-chapters" not in (tmp_path / "out" / "report.html").read_text()


def test_what_both_share_is_set_once(words: Path, tmp_path: Path) -> None:
    given = overrides(words, tmp_path / "out")
    config = load_config(EvaluateAllConfig, ALL, given)
    assert config.chapters is not None
    assert config.pairs is not None
    assert config.chapters.model == config.pairs.model == config.model
    assert config.chapters.output == f"{tmp_path / 'out'}/chapters"
    assert config.pairs.preset == "paper"
    assert config.pairs.tasks["swuggy"].root == str(words)
    old = ["paper_metrics.paper_metrics_use_silence=true", "paper_metrics.use_silence_codes=true"]
    both = load_config(EvaluateAllConfig, ALL, [*given, *old]).pairs
    assert both is not None
    assert [(each.text, each.other) for each in both.settings] == [("silence_codes", "silence")]
    printed = tmp_path / "printed.yaml"
    printed.write_text(dump_yaml(config))
    assert load_config(EvaluateAllConfig, printed) == config
    for override, sentence in (
        ("pairs.model.dtype=bfloat16", "pairs.model is set apart: set model for both"),
        ("chapters.output=elsewhere", "chapters.output is set: set output"),
        ("paper_metrics.librilight_book_name=x", "of chapters: now data.books, a list"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(EvaluateAllConfig, ALL, [*given, override])
        assert sentence in str(caught.value)
    with pytest.raises(ConfigError, match="both null"):
        load_config(EvaluateAllConfig, ALL, ["chapters=null", "pairs=null"])

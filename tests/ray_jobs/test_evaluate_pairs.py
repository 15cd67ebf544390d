"""The evaluation of pairs as a job: made benchmarks, broken files, kills, reruns, old keys.

In this process, but for what kills a worker or places several.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from ray_jobs import evaluate_pairs
from ray_jobs.config.load import ConfigError, load_config
from ray_jobs.moshi import evaluation
from ray_jobs.moshi.pairs import run as pair_pool
from ray_jobs.moshi.pairs.config import ALIASES, EvaluatePairsConfig
from ray_jobs.moshi.pairs.plan import describe, make_plan
from ray_jobs.moshi.pairs.run import JOB
from tests.jobs import run_pairs
from tests.ray_jobs.worker_processes import killing, worker_pids
from ttt.audio import Piece, read_header
from ttt.errors import UserError
from ttt.eval.config import StreamSetting
from ttt.eval.pairs.records import ItemRecord, read_part, read_parts
from ttt.layers import TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt, load_ttt, save_ttt, tiny_lm
from ttt.moshi.codes import encode_recording
from ttt.moshi.lora import StoredLora, write_lora
from ttt.moshi.tiny import tiny_mimi
from ttt.records import read_json
from ttt.synthetic.pairs import say_by_arithmetic, write_fixtures

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "pairs_tiny_cpu.yaml"
SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20, "text_card": 64}
TWO_ACTORS = ("cluster.num_workers=2", "cluster.cpus_per_worker=0.5")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The made benchmarks; one negative story is no audio."""
    roots = write_fixtures(tmp_path_factory.mktemp("pairs"), say_by_arithmetic)
    next(roots["tstory"].glob("3_*_incorrect.wav")).write_text("this is no audio")
    return roots


@pytest.fixture(scope="module")
def ttt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ttt")
    lm = tiny_lm(**SHAPE)
    layers = TTTConfig(dim=64, num_heads=4, mini_batch_size=8)
    insert_ttt(lm, [1], layers, gate=0.8, generator=torch.Generator().manual_seed(0))
    save_ttt(lm, folder)
    return folder


def config(roots: dict[str, Path], *overrides: str, tasks: tuple[str, ...] = ("swuggy",)):
    """Tiny models in this process."""
    where = [f"tasks.{name}.root={roots[name]}" for name in tasks]
    none = [f"tasks.{name}=null" for name in roots if name not in tasks]
    small = [f"model.lm_kwargs={json.dumps(SHAPE)}", "cluster.num_workers=0"]
    quick = ["summary.resamples=50", "pairs_per_shard=4", "batch_items=5"]
    return load_config(EvaluatePairsConfig, TINY, [*where, *none, *small, *quick, *overrides])


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory,
    roots: dict[str, Path],
    ttt_folder: Path,
) -> EvaluatePairsConfig:
    """A finished run: two models, two settings, one task whole, one with a broken recording."""
    ready = config(
        roots,
        f"model.ttt={ttt_folder}",
        "tasks.swuggy.max_pairs=9",
        "against={masked: {other: masked}}",
        "min_coverage=0.5",
        "silence_seconds=1.5",
        f"output={tmp_path_factory.mktemp('run') / 'out'}",
        tasks=("swuggy", "tstory"),
    )
    run_pairs(ready)
    return ready


def rows(output: str | Path, key: str, task: str) -> list[ItemRecord]:
    return list(read_parts(Path(output) / "items" / key, task))


def untimed(output: str | Path) -> dict[str, list[dict]]:
    return {
        f"{folder.parent.name}/{folder.name}": [
            asdict(replace(row, seconds=None))
            for row in rows(output, folder.parent.name, folder.name)
        ]
        for folder in sorted((Path(output) / "items").glob("*/*"))
    }


def without_origin(output: str | Path) -> dict:
    summary = read_json(Path(output) / "summary.json")
    return {**summary, "run": {**summary["run"], "provenance": None}}


def test_every_recording_has_a_score_or_a_reason(evaluated: EvaluatePairsConfig) -> None:
    output = Path(evaluated.output)
    keys = ["baseline-paper", "ttt-paper", "baseline-masked", "ttt-masked"]
    summary = read_json(output / "summary.json")
    assert list(summary["runs"]) == keys
    for key in keys:
        words, stories = (rows(output, key, task) for task in ("swuggy", "tstory"))
        assert len(words) == 18
        assert {row.status for row in words} == {"ok"}
        assert len(list((output / "items" / key / "swuggy").glob("part-*.parquet"))) == 3
        (broken,) = [row for row in stories if row.status != "ok"]
        assert "cannot be read as audio" in str(broken.error)
        assert broken.role == "negative"
        assert broken.nll_sum is None
        partner = next(r for r in stories if r.pair_id == broken.pair_id and r.role == "positive")
        assert partner.status == "ok"
        assert partner.ending_first_frame is None
        told = summary["runs"][key]["tasks"]["tstory"]
        assert (told["scored"], told["planned"], told["coverage"]) == (9, 10, 0.9)
        assert [each["pair_id"] for each in told["left_out"]] == [broken.pair_id]
        accuracy = summary["runs"][key]["metrics"]["tstory"]["scores"]["weighted_mean"]
        assert accuracy["pairs"] == 9  # Never a win.
    page = (output / "report.html").read_text()
    assert "ttt-masked minus baseline-paper" in page
    assert 'aria-label="codes of silence" src="data:audio/flac' in page
    assert (output / "plots" / "accuracy.svg").exists()
    assert read_json(output / "legacy.json")["run"] == "ttt-paper"


def test_scores_are_those_of_each_recording_by_itself(
    evaluated: EvaluatePairsConfig, roots: dict[str, Path], ttt_folder: Path
) -> None:
    mimi, lm = tiny_mimi(), tiny_lm(**SHAPE)
    load_ttt(lm, ttt_folder)
    stories = {row.item_id: row for row in rows(evaluated.output, "ttt-masked", "tstory")}
    pair = next(p for p in make_plan(evaluated).work[-1].pairs if p.task == "tstory")
    for utterance in (pair.positive, pair.negative):
        header = read_header(utterance.audio)
        piece = Piece(str(utterance.audio), 0, header.samples, header.rate)
        made = encode_recording(mimi, "x", (piece,), None, "")
        heard = evaluate_codes(lm, torch.from_numpy(made.codes)[None], text_stream="masked")
        row = stories[utterance.item_id]
        assert row.codes_sha256 == made.sha256
        assert row.n_cb == (made.codes.shape[1],) * 8 == (row.n_frames,) * 8
        assert row.nll_sum == pytest.approx(heard.nll[0].double().sum(1).tolist(), rel=1e-5)
        ending = heard.nll[0].double()[:, row.ending_first_frame :].sum(1)
        assert row.ending_sum == pytest.approx(ending.tolist(), rel=1e-5)
        assert 0 < row.ending_first_frame < row.n_frames  # A story begins as its partner does.


def test_models_and_settings_are_told_apart(evaluated: EvaluatePairsConfig) -> None:
    sums = {
        key: [row.nll_sum[0] for row in rows(evaluated.output, key, "swuggy")]
        for key in ("baseline-paper", "ttt-paper", "baseline-masked", "ttt-masked")
    }
    for one in sums:
        for other in sums:
            assert (one == other) == (sums[one] == sums[other])
    run = read_json(Path(evaluated.output) / "run.json")
    assert [model["model"] for model in run["models"]] == ["baseline", "ttt"]
    assert run["models"][1]["ttt"]["layers"] == [1]
    assert run["warnings"] == []


def test_recomputing_changes_nothing(
    evaluated: EvaluatePairsConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(evaluated.output)
    names = ("summary.json", "legacy.json", "report.html")
    before = [(output / name).read_bytes() for name in names]
    for name in names:
        (output / name).unlink()
    assert evaluate_pairs.main(["--rescore", str(output)]) == 0
    assert [(output / name).read_bytes() for name in names] == before
    assert evaluate_pairs.main(["--compare", str(output), f"{output}:ttt-paper"]) == 0
    table = capsys.readouterr().out
    assert f"ttt-paper of {output} minus ttt-paper of {output}, points of accuracy" in table
    assert "+0.00" in table
    assert evaluate_pairs.main(["--compare", f"{output}:nobody", str(output)]) == 2
    assert "has no nobody; it has baseline-paper" in capsys.readouterr().err


def test_a_run_has_one_configuration(evaluated: EvaluatePairsConfig) -> None:
    with pytest.raises(UserError, match=r"made with batch_items=5, and now it is 6; choose"):
        run_pairs(replace(evaluated, batch_items=6), resume=True)
    with pytest.raises(UserError, match=r"made with preset='paper', and now it is 'seed'"):
        run_pairs(replace(evaluated, preset="seed"), resume=True)
    with pytest.raises(UserError, match=r"not empty .* --resume"):
        run_pairs(evaluated)


def test_the_number_of_workers_changes_nothing_and_a_rerun_does_nothing(
    ray_local: None, tmp_path: Path, roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["tasks.swuggy.max_pairs=14", f"output={tmp_path / 'two'}"]
    two = config(roots, *more, *TWO_ACTORS)
    run_pairs(two)
    for count in (0, 1):
        cluster = replace(two.cluster, num_workers=count)
        other = replace(two, output=str(tmp_path / str(count)), cluster=cluster)
        run_pairs(other)
        assert untimed(other.output) == untimed(two.output)
        assert without_origin(other.output) == without_origin(two.output)

    def no_ray(*_: object) -> None:
        raise AssertionError("a finished run needs no Ray")

    before = (tmp_path / "two" / "legacy.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "worker_session", no_ray)
        run_pairs(two, resume=True)
    assert (tmp_path / "two" / "legacy.json").read_bytes() == before

    part = tmp_path / "two/items/baseline-paper/swuggy/part-00001.parquet"
    part.unlink()
    two = replace(two, cluster=replace(two.cluster, num_workers=0))
    run_pairs(two, resume=True)
    assert untimed(str(tmp_path / "1")) == untimed(two.output)
    changed = json.loads((tmp_path / "two" / "run.json").read_text())
    changed["tasks"][0]["pairs_sha256"] = "0" * 64
    (tmp_path / "two" / "run.json").write_text(json.dumps(changed))
    part.unlink()
    with pytest.raises(UserError, match=r"since this run began tasks\.0\.pairs_sha256 has changed"):
        run_pairs(two, resume=True)


def test_a_finished_run_is_held_to_its_plan_and_takes_other_summaries(
    tmp_path: Path, roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = Path(shutil.copytree(roots["sstory"], tmp_path / "stories"))
    first = config(
        {**roots, "sstory": stories},
        "silence_seconds=1.5",
        f"output={tmp_path / 'out'}",
        tasks=("sstory",),
    )
    run_pairs(first)
    silence = tmp_path / "out" / "silence.flac"
    length = read_header(silence).samples
    longer = replace(first, silence_seconds=3.0)
    run_pairs(longer, resume=True)
    assert read_header(silence).samples == 2 * length

    def no_ray(*_: object) -> None:
        raise AssertionError("a finished run needs no Ray")

    monkeypatch.setattr(evaluation, "worker_session", no_ray)
    run_pairs(longer, resume=True)
    told = replace(
        longer,
        summary=replace(first.summary, score="weighted_sum", resamples=40),
        silence_seconds=None,
        codes_cache=str(tmp_path / "codes"),
    )
    summary = run_pairs(told, resume=True)
    assert not silence.exists()
    assert json.loads(json.dumps(evaluation.write_results(JOB, tmp_path / "out"))) == summary
    assert summary["run"]["summary"]["score"] == "weighted_sum"

    for pair in stories.glob("4_*"):
        pair.unlink()
    with pytest.raises(UserError, match=r"since this run began tasks\.0\.found has changed"):
        run_pairs(told, resume=True)


def test_a_mended_recording_is_scored_on_resume(tmp_path: Path, roots: dict[str, Path]) -> None:
    stories = Path(shutil.copytree(roots["tstory"], tmp_path / "stories"))
    (broken,) = [path for path in stories.iterdir() if path.stat().st_size < 100]
    ready = config(
        {**roots, "tstory": stories},
        f"output={tmp_path / 'out'}",
        tasks=("tstory",),
    )
    with pytest.raises(UserError, match=r"baseline-paper has scores of 9 of 10 pairs of tstory"):
        run_pairs(ready)
    shutil.copy(next(roots["sstory"].glob("3_*_incorrect.wav")), broken)
    summary = run_pairs(ready, resume=True)
    assert summary["runs"]["baseline-paper"]["coverage"] == 1


def test_a_shard_given_up_keeps_the_scores_that_it_has(
    evaluated: EvaluatePairsConfig, tmp_path: Path
) -> None:
    plan = make_plan(replace(evaluated, output=str(tmp_path / "out")))
    shutil.copytree(evaluated.output, tmp_path / "out")
    work = plan.pending()[0]
    path = work.path(plan.config.output)
    before = read_part(path)
    assert pair_pool._give_up(work, plan.config.output, "its worker died 3 times") == 1
    (lost,) = [row for row in before if row.status != "ok"]
    died = replace(lost, error="its worker died 3 times")
    assert read_part(path) == [died if row is lost else row for row in before]


def test_old_keys_are_taken_for_the_new(
    roots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = config(
        roots,
        f"paper_metrics.swuggy_audio_dir={roots['swuggy']}",
        "paper_metrics.swuggy_max_pairs=11",
        "paper_metrics.use_silence_codes=true",
        "paper_metrics.paper_metrics_use_user_stream=false",
        f"sstory_audio_dir={roots['sstory']}",
        f"output={tmp_path / 'out'}",
    )
    new = config(
        roots,
        "tasks.swuggy.max_pairs=11",
        "preset=seed",
        f"output={tmp_path / 'out'}",
        tasks=("swuggy", "sstory"),
    )
    assert old == new
    text = describe(make_plan(old))
    assert "streams, seed: text silence_codes, other masked" in text
    assert "warning: seed fills the text stream with audio codes of silence" in text
    assert "the standard error here is 14.8 points for sWUGGY, 15.5 points for Spoken" in text
    assert config(roots, "use_silence_codes=false") == config(roots)
    silent = config(roots, "paper_metrics_use_silence=false").settings[0]
    assert (silent.name, silent.text, silent.other) == ("streams", "masked", "masked")
    with pytest.raises(ConfigError) as caught:
        config(roots, "paper_metrics.use_silence_codes=maybe")
    assert caught.value.problems == (
        "paper_metrics.use_silence_codes: expected true or false, got 'maybe'",
    )
    with pytest.raises(ConfigError) as caught:
        config(roots, "paper_metrics.librilight_audio_dir=/x", "use_silence_cods=true")
    assert caught.value.problems[0] == (
        "paper_metrics.librilight_audio_dir: belongs to evaluate_chapters; there now data.root"
    )
    assert "use_silence_cods: unknown key" in caught.value.problems[1]


@pytest.mark.parametrize("silent_first", (True, False))
def test_old_keys_of_streams_go_with_silence_codes(
    roots: dict[str, Path], silent_first: bool
) -> None:
    def old(*keys: str) -> EvaluatePairsConfig:
        given = ("paper_metrics.use_silence_codes=true", *keys)
        return config(roots, *(reversed(given) if silent_first else given), "output=nowhere")

    def streams(other: str, voice: str = "moshi") -> StreamSetting:
        return StreamSetting(name="streams", text="silence_codes", other=other, voice=voice)

    seed = config(roots, "preset=seed", "output=nowhere")
    masked, silence = (f"paper_metrics_use_silence={value}" for value in ("false", "true"))
    assert old(masked) == old(f"paper_metrics.{masked}") == seed
    assert old(masked, "paper_metrics_use_user_stream=false") == seed
    both = old(silence)
    assert both.settings == (streams("silence"),)
    assert "warning: streams fills the text stream with audio codes" in describe(make_plan(both))
    user = old(masked, "paper_metrics_use_user_stream=true")
    assert user.settings == (streams("masked", "user"),)
    user = old(silence, "paper_metrics_use_user_stream=true")
    assert user.settings == (streams("silence", "user"),)
    with pytest.raises(ConfigError, match=r"\(use_silence_codes: true is preset seed\)"):
        old("streams={text: pad}")


def test_the_user_s_voice_is_refused_where_the_model_does_not_predict_it(
    roots: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="stream='user' needs a model that predicts the user's"):
        describe(make_plan(config(roots, "paper_metrics_use_user_stream=true", "output=nowhere")))
    wide = {**SHAPE, "dep_q": 16}
    spoken = config(
        roots, "streams={voice: user}", f"model.lm_kwargs={json.dumps(wide)}", "output=nowhere"
    )
    assert "the recording is user" in describe(make_plan(spoken))


def test_silence_as_text_is_refused_where_the_model_has_fewer_words_than_codes(
    roots: dict[str, Path],
) -> None:
    few = {**SHAPE, "text_card": 48}
    ready = config(roots, "preset=seed", f"model.lm_kwargs={json.dumps(few)}", "output=nowhere")
    with pytest.raises(UserError, match=r"silence as text holds 63 .* this model knows -1 to 47"):
        describe(make_plan(ready))


def test_what_is_not_whole_is_refused_before_anything_starts(
    roots: dict[str, Path], tmp_path: Path
) -> None:
    stories = Path(shutil.copytree(roots["sstory"], tmp_path / "stories"))
    next(stories.glob("4_*_correct.wav")).unlink()
    torn = {**roots, "sstory": stories}
    with pytest.raises(UserError, match=r"tasks\.sstory: 1 of 10 pairs are not whole"):
        describe(make_plan(config(torn, "output=nowhere", tasks=("sstory",))))
    text = describe(
        make_plan(config(torn, "output=nowhere", "min_coverage=0.9", tasks=("sstory",)))
    )
    assert "Spoken StoryCloze: 9 pairs" in text
    assert "1 left out" in text
    nowhere = {**roots, "sstory": tmp_path / "nowhere"}
    with pytest.raises(UserError, match=r"no such folder .*; tasks\.sstory=null leaves it out"):
        describe(make_plan(config(nowhere, "output=nowhere", tasks=("sstory",))))


@pytest.mark.parametrize(
    "overrides, sentence",
    (
        (["tasks.swuggy=null"], "tasks names no benchmark"),
        (["tasks.blimp.root=x"], "tasks has no blimp; there are"),
        (["preset=seed", "streams={text: pad}"], "preset seed sets the streams"),
        (["against={paper: {text: pad}}"], "against.paper: another name"),
        (["against={'a/b': {text: pad}}"], "against.a/b: another name"),
        (["batch_items=0"], "batch_items must be 1 or more"),
        (["silence_seconds=0"], "silence_seconds must be above 0"),
    ),
)
def test_settings_that_do_not_fit(roots, overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(roots, *overrides)
    assert sentence in str(caught.value)


def test_every_task_of_the_original_has_its_keys() -> None:
    assert {f"{task}_audio_dir" for task in ("sblimp", "swuggy", "tstory", "sstory")} <= set(
        ALIASES
    )


@pytest.mark.faults
def test_a_killed_worker_changes_no_record(
    ray_local: None, tmp_path: Path, roots: dict[str, Path], ttt_folder: Path
) -> None:
    quiet = config(
        roots,
        f"model.ttt={ttt_folder}",
        f"output={tmp_path / 'quiet'}",
        *TWO_ACTORS,
        tasks=("swuggy", "sstory"),
    )
    run_pairs(quiet)
    killed = replace(quiet, output=str(tmp_path / "killed"))
    _evaluate_and_kill(killed, parts=2)
    assert untimed(killed.output) == untimed(quiet.output)
    assert without_origin(killed.output) == without_origin(quiet.output)
    assert not list(Path(killed.output).rglob("*.tmp"))


@pytest.mark.faults
def test_a_worker_killed_while_it_loads_a_model_has_a_successor(
    ray_local: None, tmp_path: Path, roots: dict[str, Path]
) -> None:
    more = ["tasks.swuggy.max_pairs=4", f"output={tmp_path / 'out'}"]
    ready = config(roots, *more, *TWO_ACTORS)
    _evaluate_and_kill(ready, parts=0, method="identify")
    assert {row.status for row in rows(ready.output, "baseline-paper", "swuggy")} == {"ok"}


@pytest.mark.faults
def test_a_shard_that_kills_every_worker_is_a_reason(
    ray_local: None, tmp_path: Path, roots: dict[str, Path]
) -> None:
    ready = config(
        roots,
        "tasks.swuggy.max_pairs=4",
        "cluster.num_workers=1",
        f"output={tmp_path / 'out'}",
    )
    with pytest.raises(UserError, match=r"has scores of 0 of 4 pairs"):
        _evaluate_and_kill(ready, parts=0, times=3)
    died = rows(ready.output, "baseline-paper", "swuggy")
    assert {row.error for row in died} == {"its worker died 3 times"}
    assert run_pairs(ready, resume=True)["runs"]["baseline-paper"]["coverage"] == 1


def _evaluate_and_kill(
    ready: EvaluatePairsConfig, parts: int, times: int = 1, method: str = "score"
) -> None:
    """Evaluate; kill -9 a worker that is in `method` once there are so many part files."""

    def working() -> list[int]:
        written = len(list(Path(ready.output).glob("items/**/[!.]*.parquet")))
        return worker_pids(f"ray::PairWorker.{method}") if written >= parts else []

    with killing(working, times):
        run_pairs(ready)


def test_a_lora_is_scored_and_is_part_of_the_run(tmp_path: Path, roots: dict[str, Path]) -> None:
    name, plain = "transformer.layers.0.gating.linear_in", tiny_lm(**SHAPE)
    linear = plain.get_submodule(name)
    pair = torch.ones(2, linear.in_features), torch.ones(linear.out_features, 2)
    tensors = {f"{name}.lora_{part}.weight": t for part, t in zip("AB", pair, strict=True)}
    write_lora(tmp_path / "lora", StoredLora("", tensors, 2, 0.5, ""), {})
    outputs = [tmp_path / "plain", tmp_path / "fine"]
    words = ("tasks.swuggy.max_pairs=2", "min_coverage=0.5")
    run_pairs(config(roots, *words, f"output={outputs[0]}"))
    run_pairs(config(roots, *words, f"output={outputs[1]}", f"model.lora={tmp_path / 'lora'}"))
    sums = [[row.nll_sum for row in rows(o, "baseline-paper", "swuggy")] for o in outputs]
    assert sums[0] != sums[1]
    told = [read_json(output / "run.json")["models"][0]["lora"] for output in outputs]
    assert told[0] is None
    assert told[1]["linears"] == 1
    with pytest.raises(UserError, match=r"made with model.lora='.*', and now it is None; choose"):
        run_pairs(config(roots, *words, f"output={outputs[1]}"), resume=True)


def test_controls_of_the_inner_loop_are_compared_pair_by_pair(
    tmp_path: Path, roots: dict[str, Path], ttt_folder: Path
) -> None:
    words = (f"model.ttt={ttt_folder}", "tasks.swuggy.max_pairs=6", f"output={tmp_path / 'out'}")
    words += ("against={masked: {other: masked}}", "controls.updates_off=true")
    words += ("controls.ascent=true", "controls.query_is_key=true", "controls.inner_steps=2")
    ready = config(roots, *words)
    assert "baseline, ttt, ttt-updates-off, ttt-ascent, ttt-query-is-key, ttt-inner-steps-2" in (
        describe(make_plan(ready))
    )
    run_pairs(ready)
    output = tmp_path / "out"
    names = ["ttt", "ttt-updates-off", "ttt-ascent", "ttt-query-is-key", "ttt-inner-steps-2"]
    sums = {name: [r.nll_sum for r in rows(output, f"{name}-paper", "swuggy")] for name in names}
    assert all(len(found) == 12 for found in sums.values())
    assert len({tuple(found) for found in sums.values()}) == len(names)
    summary = read_json(output / "summary.json")
    compared = {(each["first"], each["second"]) for each in summary["comparisons"]}
    for setting in ("paper", "masked"):
        for name in names[1:]:
            assert (f"ttt-{setting}", f"{name}-{setting}") in compared
    assert ("baseline-paper", "ttt-paper") in compared
    assert len(compared) == 2 * len(names) + 1
    legacy = read_json(output / "legacy.json")
    assert legacy["run"] == "ttt-paper"  # not the controls that come after it
    page = (output / "report.html").read_text()
    table = page.split("Is it memory? Controls")[1].split("</table>")[0]
    for name in names[1:]:
        assert f"{name}-paper minus ttt-paper" in table
    assert "baseline" not in table
    with pytest.raises(UserError, match=r"made with controls.ascent=True, and now it is False"):
        run_pairs(config(roots, *words, "controls.ascent=false"), resume=True)


def test_a_control_without_ttt_layers_is_refused(roots: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"controls.ascent needs model.ttt: a base model has no"):
        config(roots, "controls.ascent=true", "output=x")

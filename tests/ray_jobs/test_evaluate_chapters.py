"""The chapter evaluation as a job: recordings and made chapters, failures, kills, reruns.

In this process, but for what kills a worker or places several.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from ray_jobs import evaluate_chapters
from ray_jobs.config.former_keys import ORIGINAL_KEYS
from ray_jobs.config.load import ConfigError, dump_yaml, load_config
from ray_jobs.moshi import evaluation
from ray_jobs.moshi.chapters import plan as chapter_plan
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.chapters.plan import describe, make_plan
from ray_jobs.moshi.chapters.run import JOB
from tests.jobs import run_chapters
from tests.ray_jobs.worker_processes import killing, worker_pids
from ttt.errors import UserError
from ttt.eval.chapters.records import ChapterWriter, read_record, read_records, record_path
from ttt.eval.chapters.run import ORIGINAL_WARNING
from ttt.layers import InnerControls, TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt, load_ttt, save_ttt, tiny_lm
from ttt.moshi.insert import ttt_layers
from ttt.moshi.lora import StoredLora, fuse_lora, read_lora, write_lora
from ttt.moshi.original import OriginalEvaluation
from ttt.moshi.ttt_files import base_fingerprint
from ttt.records import read_json, read_jsonl
from ttt.synthetic.chapters import synthetic_chapter
from ttt.synthetic.voice import utterance

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "chapters_tiny_cpu.yaml"
SHAPE = {"dim": 64, "num_layers": 2, "depformer_dim": 32, "context": 20}
TWO_ACTORS = ("cluster.num_workers=2", "cluster.cpus_per_worker=0.5")


def config(*overrides: str) -> EvaluateChaptersConfig:
    """Tiny models in this process."""
    small = [f"model.lm_kwargs={json.dumps(SHAPE)}", "cluster.num_workers=0", "chunk=16"]
    short = ["summary.positions=[50, 100]", "summary.window_frames=40", "summary.resamples=100"]
    return load_config(EvaluateChaptersConfig, TINY, [*small, *short, *overrides])


def made(frames: int, *overrides: str) -> EvaluateChaptersConfig:
    return config(
        "data=null",
        f"synthetic.frames={frames}",
        "streams.other=masked",
        "verify_spans=0",
        *overrides,
    )


@pytest.fixture(scope="module")
def ttt_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TTT layers of the tiny model; in `nan`, ones whose gate is not a number."""
    folder = tmp_path_factory.mktemp("ttt")
    lm = tiny_lm(**SHAPE)
    layers = TTTConfig(dim=64, num_heads=4, mini_batch_size=8)
    insert_ttt(lm, [1], layers, gate=0.8, generator=torch.Generator().manual_seed(0))
    save_ttt(lm, folder / "good")
    with torch.no_grad():
        lm.get_parameter("transformer.layers.1.ttt.alpha").fill_(torch.nan)
    save_ttt(lm, folder / "nan")
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short chapters by two speakers, one that breaks off, and one that is no audio."""
    root = tmp_path_factory.mktemp("voices")
    for number, (name, seconds) in enumerate((("1/a/x_1", 12), ("1/a/x_2", 7), ("2/b/y_1", 9))):
        path = root / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = utterance(number, seconds, 16_000, speaker=number // 2)
        soundfile.write(path, audio, 16_000, subtype="PCM_16")
    whole = (root / "1/a/x_1.flac").read_bytes()
    (root / "2/b/y_2.flac").write_bytes(whole[: len(whole) // 2])
    (root / "2/b/y_3.flac").write_text("this is no audio")
    return root


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, voices: Path, ttt_folder: Path
) -> EvaluateChaptersConfig:
    """A finished run: baseline, TTT, TTT that does not learn; five chapters, two of them broken."""
    ready = config(
        f"data.root={voices}",
        f"model.ttt={ttt_folder / 'good'}",
        f"output={tmp_path_factory.mktemp('run') / 'out'}",
        "controls.updates_off=true",
        "streams.other=masked",
        "verify_spans=1",
        "min_coverage=0.5",
    )
    run_chapters(ready)
    return ready


def untimed(path: Path) -> dict[str, object]:
    record = read_record(path)
    details = asdict(replace(record.details, seconds=None, peak_bytes=None))
    return {**details, "nll": record.nll.tobytes(), "text": record.text.tobytes()}


def all_records(output: str) -> dict[str, dict[str, object]]:
    root = Path(output) / "records"
    return {str(path.relative_to(root)): untimed(path) for path in sorted(root.rglob("*.parquet"))}


def test_every_chapter_has_a_record_or_a_reason(evaluated: EvaluateChaptersConfig) -> None:
    output = Path(evaluated.output)
    names = ["baseline", "ttt", "ttt-updates-off"]
    kept = ["1/a/x_1", "1/a/x_2", "2/b/y_1"]
    assert sorted(all_records(evaluated.output)) == sorted(
        f"{name}/{chapter}.parquet" for name in names for chapter in kept
    )
    failures = list(read_jsonl(output / "failures.jsonl"))
    assert {(line["model"], line["chapter_id"]) for line in failures} == {
        (name, chapter) for name in names for chapter in ("2/b/y_2", "2/b/y_3")
    }
    for line in failures:
        assert f"{line['chapter_id']}.flac" in line["reason"]
    summary = read_json(output / "summary.json")
    assert list(summary["models"]) == names
    assert {model["coverage"] for model in summary["models"].values()} == {0.6}
    page = (output / "report.html").read_text()
    assert "ttt-updates-off" in page
    assert (output / "plots" / "loss_moshi.svg").exists()
    legacy = read_json(output / "legacy.json")
    assert legacy["librilight_samples"] == 3
    assert legacy["model"] == "ttt"  # not the control that comes after it
    assert not list((output / "state").rglob("*.safetensors"))


def test_the_models_of_a_run_are_told_apart(evaluated: EvaluateChaptersConfig) -> None:
    output = Path(evaluated.output)
    baseline, ttt, still = (
        np.concatenate([record.nll for record in read_records(output / "records" / name)], axis=1)
        for name in ("baseline", "ttt", "ttt-updates-off")
    )
    assert np.abs(baseline - ttt).max() > 0.01
    assert np.abs(ttt - still).max() > 1e-4
    run = read_json(output / "run.json")
    assert [model["controls"] for model in run["models"]] == [{}, {}, {"updates": "off"}]
    assert run["models"][1]["ttt"]["layers"] == [1]
    summary = read_json(output / "summary.json")
    assert min(summary["models"]["ttt"]["activity"]["1"]["mean"]) > 0
    assert max(summary["models"]["ttt-updates-off"]["activity"]["1"]["mean"]) == 0
    verified = list(read_jsonl(output / "verification.jsonl"))
    assert len(verified) == 9
    assert max(line["largest_nll_difference"] for line in verified) < 1e-5
    for name, model in summary["models"].items():
        held = [line for line in verified if line["model"] == name]
        assert model["verification"]["groups"] == len(held) == 3
        for counted in ("frames", "beginning_frames"):
            assert model["verification"][counted] == sum(line[counted] for line in held) > 0
    assert "Held to stepping" in (output / "report.html").read_text()
    compared = [(each["first"], each["second"]) for each in summary["comparisons"]]
    assert compared == [("baseline", "ttt"), ("ttt", "ttt-updates-off")]


def test_recomputing_changes_nothing(
    evaluated: EvaluateChaptersConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(evaluated.output)
    names = ("summary.json", "legacy.json", "report.html")
    before = [(output / name).read_bytes() for name in names]
    for name in names:
        (output / name).unlink()
    assert evaluate_chapters.main(["--rescore", str(output)]) == 0
    assert [(output / name).read_bytes() for name in names] == before
    assert evaluate_chapters.main(["--compare", f"{output}:ttt-updates-off", f"{output}:ttt"]) == 0
    table = capsys.readouterr().out
    assert f"ttt of {output} minus ttt-updates-off of {output}, 3 chapters, nats" in table
    assert evaluate_chapters.main(["--compare", f"{output}:nobody", str(output)]) == 2
    assert "has no model nobody; it has baseline, ttt" in capsys.readouterr().err


def test_a_run_has_one_configuration(evaluated: EvaluateChaptersConfig) -> None:
    with pytest.raises(UserError, match=r"made with chunk=16, and now it is 8; choose another"):
        run_chapters(replace(evaluated, chunk=8), resume=True)
    streams = replace(evaluated.streams, other="zero_id")
    with pytest.raises(UserError, match=r"made with streams\.other='masked'"):
        run_chapters(replace(evaluated, streams=streams), resume=True)
    with pytest.raises(UserError, match=r"not empty .* --resume"):
        run_chapters(evaluated)


def test_other_weights_behind_the_same_name_are_refused(
    evaluated: EvaluateChaptersConfig, ttt_folder: Path, tmp_path: Path
) -> None:
    output = Path(evaluated.output)
    run = (output / "run.json").read_text()
    changed = json.loads(run)
    changed["models"][0]["fingerprint"] = "0" * 16
    (output / "run.json").write_text(json.dumps(changed))
    try:
        with pytest.raises(UserError, match=r"models\.0\.fingerprint has changed from '0{16}'"):
            run_chapters(evaluated, resume=True)
    finally:
        (output / "run.json").write_text(run)


def test_a_killed_actor_changes_no_record(
    ray_local: None, tmp_path: Path, ttt_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = made(
        450,
        "synthetic.chapters=2",
        "state_every_frames=64",
        f"model.ttt={ttt_folder / 'good'}",
        "model.baseline=false",
        f"output={tmp_path / 'killed'}",
        *TWO_ACTORS,
    )
    _evaluate_and_kill(ready)
    lm = tiny_lm(**SHAPE)
    load_ttt(lm, ttt_folder / "good")
    records = list(read_records(tmp_path / "killed" / "records"))
    assert [record.frames for record in records] == [450] * 2
    for record in records:
        codes = chapter_codes(ready, record.details.chapter_id)
        whole = evaluate_codes(lm, codes[None], chunk=16)
        assert np.array_equal(record.nll, whole.nll[0].numpy())
        assert np.array_equal(record.text, whole.text[0].numpy())

    def no_ray(*_: object) -> None:
        raise AssertionError("a finished run needs no Ray")

    before = all_records(ready.output)
    monkeypatch.setattr(evaluation, "worker_session", no_ray)
    run_chapters(ready, resume=True)
    assert all_records(ready.output) == before

    told = replace(ready, summary=replace(ready.summary, resamples=90, window_frames=30))
    run_chapters(told, resume=True)
    summary = read_json(tmp_path / "killed" / "summary.json")
    evaluation.write_results(JOB, tmp_path / "killed")
    assert read_json(tmp_path / "killed" / "summary.json") == summary
    assert summary["run"]["summary"]["window_frames"] == 30

    assert ready.synthetic is not None
    fewer = make_plan(replace(ready, synthetic=replace(ready.synthetic, chapters=1)))
    monkeypatch.setattr(chapter_plan, "make_plan", lambda _: replace(fewer, given=told))
    with pytest.raises(UserError, match=r"since this run began chapters\.1 has changed"):
        run_chapters(told, resume=True)


@pytest.mark.faults
def test_sigterm_ends_the_job_and_resume_changes_no_record(ray_local: None, tmp_path: Path) -> None:
    more = ["synthetic.chapters=1", "state_every_frames=64", f"output={tmp_path / 'out'}"]
    ready = made(1500, *more, *TWO_ACTORS)
    (tmp_path / "chapters.yaml").write_text(dump_yaml(ready))
    command = [sys.executable, "-m", "ray_jobs.evaluate_chapters"]
    job = subprocess.Popen([*command, "--config", str(tmp_path / "chapters.yaml")], cwd=ROOT)
    try:
        while not list(tmp_path.glob("out/state/**/[!.]*.safetensors")):
            assert job.poll() is None
            time.sleep(0.005)
        job.terminate()
        assert job.wait() == 143
    finally:
        job.kill()
    assert not all_records(ready.output)
    assert list(tmp_path.glob("out/state/**/[!.]*.safetensors"))
    run_chapters(ready, resume=True)
    (record,) = read_records(tmp_path / "out" / "records")
    codes = chapter_codes(ready, record.details.chapter_id)
    whole = evaluate_codes(tiny_lm(**SHAPE), codes[None], chunk=16)
    assert np.array_equal(record.nll, whole.nll[0].numpy())
    assert np.array_equal(record.text, whole.text[0].numpy())


def test_what_a_worker_killed_after_its_last_record_left_goes(tmp_path: Path) -> None:
    ready = made(60, "synthetic.chapters=2", f"output={tmp_path / 'out'}")
    run_chapters(ready)
    before = all_records(ready.output)
    work = make_plan(ready).work[0]
    state = tmp_path / "out" / work.state_name
    record = record_path(tmp_path / "out/records/baseline", work.recordings[0].chapter_id)
    left = [state, state.with_name(f".{state.name}.0a1b2c3d.tmp"), record.with_suffix(".frames")]
    left.append(record.with_name(f".{record.name}.0a1b2c3d.tmp"))
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    run_chapters(ready, resume=True)
    assert not [path for path in left if path.exists()]
    assert all_records(ready.output) == before
    assert work not in make_plan(ready).pending()


def test_a_group_that_cannot_be_held_to_stepping_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = made(60, "synthetic.chapters=2", f"output={tmp_path / 'out'}")
    run_chapters(ready)
    path = record_path(tmp_path / "out/records/baseline", "speaker_0/chapter_0")
    record = read_record(path)
    path.unlink()
    with ChapterWriter(tmp_path / "out/records/baseline", "speaker_0/chapter_0", 0) as writer:
        writer.append(np.tile(record.nll, 2), np.tile(record.text, 2))  # Longer than its codes.
        writer.finish(record.details)
    held = replace(ready, verify_spans=1)
    run_chapters(held, resume=True)
    told = read_json(tmp_path / "out/summary.json")["models"]["baseline"]["verification"]
    (unverified,) = told["unverified"]
    assert told["groups"] == 1
    assert unverified["chapters"] == ["speaker_0/chapter_0"]
    assert "must match" in unverified["reason"]
    assert f"not held to stepping: speaker_0/chapter_0: {unverified['reason']}" in (
        capsys.readouterr().out
    )
    page = (tmp_path / "out/report.html").read_text()
    assert page.index("Held to stepping") < page.index("speaker_0/chapter_0: RuntimeError")

    path.unlink()
    run_chapters(held, resume=True)
    told = read_json(tmp_path / "out/summary.json")["models"]["baseline"]["verification"]
    assert (told["groups"], told["unverified"]) == (2, [])


@pytest.mark.faults
def test_a_group_whose_verification_kills_every_worker_is_named(
    ray_local: None, tmp_path: Path
) -> None:
    more = ["synthetic.chapters=1", "verify_spans=50", f"output={tmp_path / 'out'}"]
    ready = made(450, *more, *TWO_ACTORS)
    path = record_path(tmp_path / "out/records/baseline", "speaker_0/chapter_0")
    with killing(lambda: worker_pids("ray::ChapterWorker.hear") if path.exists() else [], times=3):
        run_chapters(ready)
    told = read_json(tmp_path / "out/summary.json")["models"]["baseline"]["verification"]
    died = {"chapters": ["speaker_0/chapter_0"], "reason": "its worker died 3 times"}
    assert (told["groups"], told["unverified"]) == (0, [died])
    assert not (tmp_path / "out/failures.jsonl").exists()
    run_chapters(ready, resume=True)
    told = read_json(tmp_path / "out/summary.json")["models"]["baseline"]["verification"]
    assert (told["groups"], told["unverified"]) == (1, [])


def chapter_codes(ready: EvaluateChaptersConfig, chapter_id: str) -> torch.Tensor:
    from ttt.synthetic.chapters import synthetic_chapter

    assert ready.synthetic is not None
    seed = ready.synthetic.first_seed + int(chapter_id.rpartition("_")[2])
    return torch.from_numpy(
        synthetic_chapter(ready.synthetic.language, seed, ready.synthetic.frames)
    )


def _evaluate_and_kill(ready: EvaluateChaptersConfig) -> None:
    """Evaluate; kill -9 a worker as soon as it has saved a state inside a chapter."""

    def saved() -> Iterator[int]:
        for state in Path(ready.output).glob("state/**/[!.]*.safetensors"):
            frames = str(state).replace("/state/", "/records/").replace("safetensors", "frames")
            for pid in worker_pids("ray::ChapterWorker"):
                if frames in _open_files(pid):
                    yield pid

    with killing(saved):
        run_chapters(ready)


def _open_files(pid: int) -> set[str]:
    try:
        return {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:  # It is over already.
        return set()


def test_the_preset_original_says_everywhere_that_it_is_wrong(
    ray_local: None, tmp_path: Path, ttt_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is exact, whoever is killed on the way."""
    output = tmp_path / "out"
    ready = made(
        400,
        "preset=original",
        "streams.other=zero_id",
        "summary.weights=uniform",
        "synthetic.chapters=2",
        "state_every_frames=64",
        f"model.ttt={ttt_folder / 'good'}",
        "model.baseline=false",
        f"output={output}",
        *TWO_ACTORS,
    )
    _evaluate_and_kill(ready)
    assert f"warning: {ORIGINAL_WARNING}" in capsys.readouterr().out
    lm = tiny_lm(**SHAPE)
    load_ttt(lm, ttt_folder / "good")
    records = list(read_records(output / "records"))
    assert [record.frames for record in records] == [397] * 2
    for record in records:
        codes = chapter_codes(ready, record.details.chapter_id)
        with OriginalEvaluation(lm, codes[None], chunk=16) as evaluation:
            nll = torch.cat([block.nll for block in evaluation], dim=2)
        assert np.array_equal(record.nll, nll[0].numpy())
        assert record.details.warning == ORIGINAL_WARNING
        assert record.details.unscored_frames == 3
    assert f"warning: {ORIGINAL_WARNING}" in describe(make_plan(ready))
    for name in ("run.json", "summary.json", "legacy.json"):
        assert read_json(output / name)["warnings"] == [ORIGINAL_WARNING]
    assert read_json(output / "summary.json")["models"]["ttt"]["unscored_frames"] == 6
    assert ORIGINAL_WARNING in (output / "report.html").read_text()
    pictures = list((output / "plots").glob("*.svg"))
    assert {path.stem for path in pictures} >= {"loss_uniform", "activity_ttt"}
    for path in pictures:
        assert "Not a valid measurement" in path.read_text()
    assert evaluate_chapters.main(["--compare", str(output), str(output)]) == 0
    assert f"warning, {output}: {ORIGINAL_WARNING}" in capsys.readouterr().out
    right = replace(ready, preset=None)
    with pytest.raises(UserError, match="made with preset='original', and now it is None"):
        run_chapters(right, resume=True)


def test_a_model_that_gives_no_number_fails_by_name(tmp_path: Path, ttt_folder: Path) -> None:
    ready = made(
        60,
        "synthetic.chapters=2",
        f"model.ttt={ttt_folder / 'nan'}",
        "group_size=2",
        f"output={tmp_path / 'out'}",
    )
    with pytest.raises(UserError, match=r"ttt has records of 0 of 2 chapters.*failures\.jsonl"):
        run_chapters(ready)
    failures = list(read_jsonl(tmp_path / "out" / "failures.jsonl"))
    assert [line["model"] for line in failures] == ["ttt", "ttt"]
    for line in failures:
        assert "not a finite number" in line["reason"]
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["models"]["baseline"]["coverage"] == 1
    assert record_path(tmp_path / "out/records/baseline", "speaker_0/chapter_0").exists()


def test_workers_that_do_not_fit_are_refused_at_once(ray_local: None, tmp_path: Path) -> None:
    output = f"output={tmp_path / 'out'}"
    with pytest.raises(UserError, match=r"2 workers of 0.5 CPU and 1 GPU .* room for 0; lower"):
        run_chapters(made(60, output, *TWO_ACTORS, "cluster.gpus_per_worker=1"))
    many = made(60, output, "cluster.cpus_per_worker=1", "cluster.num_workers=3")
    with pytest.raises(UserError, match=r"3 workers of 1 CPU and 0 GPU .* room for 2; lower"):
        run_chapters(many)


def test_plan_says_models_chapters_memory(voices: Path, ttt_folder: Path) -> None:
    text = describe(
        make_plan(
            config(
                f"data.root={voices}",
                f"model.ttt={ttt_folder / 'good'}",
                "controls.other_prefix_frames=30",
                "controls.reset_every_frames=20",
                "output=somewhere",
            )
        )
    )
    models = "baseline, baseline-other-prefix, ttt, ttt-reset-20, ttt-other-prefix"
    assert f"evaluate {models} on 4 chapters by 2 speakers in {voices}" in text
    assert "unreadable: 1, the first" in text
    assert "memory beyond the weights, ttt: " in text
    assert not Path("somewhere").exists()


def test_a_prefix_needs_another_speaker(voices: Path) -> None:
    root, long = f"data.root={voices}", "controls.other_prefix_frames=9999"
    with pytest.raises(UserError, match="needs chapters by two speakers, and all are by 1"):
        describe(make_plan(config(root, "data.speakers=['1']", "controls.other_prefix_frames=9")))
    with pytest.raises(UserError, match="other_prefix_frames=9999 is longer than any chapter"):
        describe(make_plan(config(root, long)))


@pytest.mark.parametrize(
    "overrides, sentence",
    (
        (["data=null"], "set exactly one of data (recordings) and synthetic"),
        (["data=null", "synthetic.frames=9"], "synthetic chapters have no codec"),
        (["controls.updates_off=true"], "controls.updates_off, controls.reset_every_frames and"),
        (["controls.ascent=true"], "those of the inner loop need model.ttt"),
        (["model.ttt=x", "controls.inner_steps=1"], "inner_steps must be 2 or more, or null"),
        (["model.baseline=false"], "baseline is false and ttt is null"),
        (["chunk=0"], "chunk must be 1 or more"),
        (["codes_cache=s3://b/codes"], "codes_cache must be a folder that all nodes see"),
        (["cluster.gpus_per_worker=1.5"], "gpus_per_worker above 1 must be a whole number"),
        (
            ["preset=original", "controls.reset_every_frames=20"],
            "set streams.other=zero_id, summary.weights=uniform, verify_spans=0, "
            "controls.reset_every_frames=null (as configs/chapters_original.yaml does), or "
            "preset=null",
        ),
    ),
)
def test_settings_that_do_not_fit(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*overrides)
    assert sentence in str(caught.value)


def test_keys_of_the_original_are_refused_with_what_became_of_them() -> None:
    with pytest.raises(ConfigError) as caught:
        config(
            "paper_metrics.librilight_audio_dir=/data",
            "paper_metrics.librilight_streaming.cache_clear_interval=3000",
            "max_sequence_length=50000",
            "ttt.max_chunk_size=50",
            "chnk=3",
        )
    assert set(caught.value.problems) == {
        "paper_metrics.librilight_audio_dir: now data.root",
        "paper_metrics.librilight_streaming.cache_clear_interval: gone: rings and states have a "
        "fixed size, and there is nothing to clear",
        "max_sequence_length: now max_frames, for trials: memory does not grow with the chapter",
        "ttt.max_chunk_size: now chunk",
        "chnk: unknown key; did you mean chunk?",
    }


def test_the_guide_lists_every_key_of_the_original() -> None:
    page = (ROOT / "docs" / "chapters.md").read_text()
    for key in ORIGINAL_KEYS:
        assert f"`{key}`" in page, key


@pytest.mark.faults
def test_recorded_speech_with_a_killed_actor(
    ray_local: None, tmp_path: Path, shared_data: Path, ttt_folder: Path
) -> None:
    """Two chapters of LJ Speech on two actors, one of which is killed, against a quiet run."""
    quiet = config(
        f"data.root={shared_data / 'librilight_mini'}",
        f"model.ttt={ttt_folder / 'good'}",
        "state_every_frames=64",
        f"output={tmp_path / 'quiet'}",
        *TWO_ACTORS,
    )
    run_chapters(quiet)
    killed = replace(quiet, output=str(tmp_path / "killed"))
    _evaluate_and_kill(killed)
    records = all_records(quiet.output)
    assert len(records) == 4
    assert all_records(killed.output) == records


@pytest.fixture
def lora_folder(tmp_path: Path) -> Path:
    """What moshi-finetune leaves: one pair that changes something, in bfloat16."""
    name, lm = "transformer.layers.0.gating.linear_in", tiny_lm(**SHAPE)
    linear = lm.get_submodule(name)
    draw = torch.Generator().manual_seed(2)
    down = torch.randn(2, linear.in_features, generator=draw)
    up = torch.randn(linear.out_features, 2, generator=draw)
    tensors = {f"{name}.lora_A.weight": down.bfloat16(), f"{name}.lora_B.weight": up.bfloat16()}
    folder = tmp_path / "lora"
    write_lora(folder, StoredLora("", tensors, 2, 0.5, ""), {})
    return folder


def test_a_lora_is_heard_and_is_part_of_the_run(
    tmp_path: Path, ttt_folder: Path, lora_folder: Path
) -> None:
    words = (f"model.ttt={ttt_folder / 'good'}", "synthetic.chapters=1")
    ready = made(60, *words, f"output={tmp_path / 'out'}", f"model.lora={lora_folder}")
    run_chapters(ready)
    run = read_json(tmp_path / "out" / "run.json")
    assert [model["lora"]["rank"] for model in run["models"]] == [2, 2]
    lm = tiny_lm(**SHAPE)
    before = base_fingerprint(lm)
    assert {model["fingerprint"] for model in run["models"]} == {before}
    fuse_lora(lm, read_lora(lora_folder))
    (chapter,) = make_plan(ready).recordings
    assert ready.synthetic is not None
    codes = synthetic_chapter(ready.synthetic.language, chapter.seed, chapter.frames)  # type: ignore[union-attr]
    for model in ("baseline", "ttt"):
        if model == "ttt":
            lm = tiny_lm(**SHAPE)
            fuse_lora(lm, read_lora(lora_folder))
            load_ttt(lm, ttt_folder / "good", base=before)
        heard = evaluate_codes(lm, torch.from_numpy(codes)[None], other_stream="masked", chunk=16)
        (record,) = read_records(tmp_path / "out" / "records" / model)
        assert np.abs(record.nll - heard.nll[0].numpy()).max() < 1e-5
    with pytest.raises(UserError, match=r"made with model.lora='.*', and now it is None; choose"):
        run_chapters(made(60, *words, f"output={tmp_path / 'out'}"), resume=True)
    # Other bytes behind the same name; a record is missing, so that models are loaded.
    path = lora_folder / "lora.safetensors"
    save_file({key: -tensor for key, tensor in load_file(path).items()}, path)
    next((tmp_path / "out").glob("records/**/*.parquet")).unlink()
    with pytest.raises(UserError, match=r"since this run began models.0.lora.sha256 has changed"):
        run_chapters(ready, resume=True)


def test_a_lora_that_does_not_fit_is_refused_before_anything_starts(
    tmp_path: Path, lora_folder: Path
) -> None:
    def refuse(sentence: str, *words: str) -> None:
        ready = made(60, f"output={tmp_path / 'out'}", f"model.lora={lora_folder}", *words)
        plan = make_plan(ready)
        with pytest.raises(UserError, match=sentence):
            describe(plan)
        assert not (tmp_path / "out").exists()

    refuse("has another shape for 2 tensors of lora.safetensors", 'model.lm_kwargs={"dim": 128}')
    path = lora_folder / "lora.safetensors"
    kept = load_file(path)
    save_file({**kept, "transformer.layers.1.ttt.alpha": torch.zeros(64)}, path)
    refuse("holds TTT layers, too .* with python -m ray_jobs.import_ttt")
    save_file(kept, path)
    (lora_folder / "config.json").write_text('{"lora_rank": 4, "lora_scaling": 2.0}')
    refuse("config.json says lora_rank 4, and lora.safetensors has rank 2")
    (lora_folder / "config.json").unlink()
    refuse("config.json is missing")
    path.unlink()
    refuse("not a folder of moshi-finetune's LoRA")


INNER = {
    "ttt": InnerControls(),
    "ttt-ascent": InnerControls(ascent=True),
    "ttt-query-is-key": InnerControls(query_is_key=True),
    "ttt-inner-steps-2": InnerControls(inner_steps=2),
}


def test_controls_of_the_inner_loop_are_models_of_the_run(tmp_path: Path, ttt_folder: Path) -> None:
    words = (f"model.ttt={ttt_folder / 'good'}", f"output={tmp_path / 'out'}", "verify_spans=1")
    words += ("synthetic.chapters=5", "synthetic.speakers=5", "model.baseline=false")
    words += ("controls.ascent=true", "controls.query_is_key=true", "controls.inner_steps=2")
    ready = made(60, *words)
    run_chapters(ready)
    run = read_json(tmp_path / "out" / "run.json")
    assert {model["model"]: model["controls"] for model in run["models"]} == {
        "ttt": {},
        "ttt-ascent": {"step": "ascent"},
        "ttt-query-is-key": {"query": "key"},
        "ttt-inner-steps-2": {"inner_steps": 2},
    }
    chapter = make_plan(ready).recordings[0]
    assert ready.synthetic is not None
    codes = synthetic_chapter(ready.synthetic.language, chapter.seed, chapter.frames)  # type: ignore[union-attr]
    lm = tiny_lm(**SHAPE)
    load_ttt(lm, ttt_folder / "good")
    found = []
    for model, inner in INNER.items():
        for layer in ttt_layers(lm).values():
            layer.layer.controls = inner
        heard = evaluate_codes(lm, torch.from_numpy(codes)[None], other_stream="masked", chunk=16)
        record = read_record(record_path(tmp_path / "out" / "records" / model, chapter.chapter_id))
        assert np.abs(record.nll - heard.nll[0].numpy()).max() < 1e-5, model
        found.append(record.nll.tobytes())
    assert len(set(found)) == len(INNER)
    held = list(read_jsonl(tmp_path / "out" / "verification.jsonl"))
    assert {line["model"] for line in held} == set(INNER)
    assert max(line["largest_nll_difference"] for line in held) < 1e-5
    summary = read_json(tmp_path / "out" / "summary.json")
    assert [(c["first"], c["second"]) for c in summary["comparisons"]] == [
        ("ttt", name) for name in INNER if name != "ttt"
    ]
    assert read_json(tmp_path / "out" / "legacy.json")["model"] == "ttt"
    page = (tmp_path / "out" / "report.html").read_text()
    table = page.split("Is it memory? Controls")[1].split("</table>")[0]
    for compared in summary["comparisons"]:
        row = table.split(f"{compared['second']} minus ttt")[1].split("</tr>")[0]
        mean = compared["losses"]["moshi"]["measures"]["mean"]
        assert f"{mean['mean']:.4f}" in row
        assert f"{mean['low']:.4f} to {mean['high']:.4f}" in row
    with pytest.raises(UserError, match=r"made with controls.inner_steps=2, and now it is 3"):
        run_chapters(made(60, *words, "controls.inner_steps=3"), resume=True)

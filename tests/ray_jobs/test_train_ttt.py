"""The command that trains TTT and LoRA in Moshi: plan, batches, refusals, Ray, export."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from moshi.models import loaders
from safetensors.torch import load_file, save_file

from ray_jobs import cache_chapters, evaluate_chapters, train_ttt
from ray_jobs.config.load import load_config
from ray_jobs.moshi.train.config import TrainingChaptersConfig, TrainTTTConfig
from ray_jobs.moshi.train.plan import TTTPlan, make_plan
from ray_jobs.moshi.train.window_stream import to_table, to_window_batch
from ray_jobs.moshi.train.words import CARD_BYTES, on_a_card
from ray_jobs.training.ray_source import RayBatchSource, batch_dataset, start_cursor
from tests.chapter_caches import MIMI, write_cache
from tests.ray_jobs.nano_training import (
    ON_RAY,
    TOTAL_STEPS,
    World,
    final,
    metrics,
    steps_recorded,
)
from tests.ray_jobs.nano_ttt import BASE
from ttt.codebook_weights import mixture
from ttt.eval.chapters.records import read_record, record_path
from ttt.eval.chapters.run import records_root
from ttt.files.errors import FileIdentity
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.chapter_cache.windows import ChapterWindowPlan, ChapterWindowShape, read_windows
from ttt.moshi.load import base_arguments, load_mimi, load_moshi
from ttt.moshi.training import WindowBatch, insert_lora
from ttt.moshi.training.config import TTTLayersConfig, WindowStageConfig
from ttt.moshi.training.estimate.need import advice
from ttt.moshi.training.lora_files import save_lora
from ttt.records import read_json, write_json
from ttt.training.micro_batches import BatchId


def plan_of(world: World, run: Path, *overrides: str) -> TTTPlan:
    return make_plan(load_config(TrainTTTConfig, str(world.config), [f"run={run}", *overrides]))


def assert_same(found: WindowBatch, wanted: WindowBatch) -> None:
    assert list(found.ids) == list(wanted.ids)
    assert torch.equal(found.codes, wanted.codes)
    assert torch.equal(found.counted, wanted.counted)
    assert (found.text is None) == (wanted.text is None)
    if found.text is not None and wanted.text is not None:
        assert torch.equal(found.text, wanted.text)


@pytest.mark.parametrize("text", [False, True])
def test_a_micro_batch_survives_the_table(tmp_path: Path, text: bool) -> None:
    write_cache(tmp_path, [30, 70, 5, 41], text=True)
    cache = ChapterCache.open(tmp_path)
    shape = ChapterWindowShape(20, windows_per_micro_batch=3, micro_batches_per_step=2)
    plan = ChapterWindowPlan(cache.n_frames, seed=1)
    empty = 0
    for step in range(plan.steps(shape)):
        for micro in range(2):
            id = BatchId(1, step, micro)
            read = WindowBatch.of(
                read_windows(cache, plan.windows(shape, id), id, text=text), cache
            )
            assert_same(to_window_batch(to_table(read)), read)
            empty += "" in read.ids
    assert empty, "the last step has a row without a window"


def test_ray_gives_what_one_process_gives(
    ttt_world: World, tmp_path: Path, ray_local: None
) -> None:
    plan = plan_of(ttt_world, tmp_path / "run", "memory.frames_per_micro_batch=64")
    stream, local = plan.stream(), plan.local_source()
    cursor = start_cursor(stream)
    batches: Any = batch_dataset(cursor)
    source = RayBatchSource(batches, cursor, stream)
    heard = 0
    for stage, first_step in ((1, 0), (2, 0), (1, 2)):
        found = source.step_batches(stage, first_step)
        for ours, theirs in zip(found, local.step_batches(stage, first_step), strict=True):
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                assert_same(one, other)
                heard += int(one.counted.sum())
    assert heard > 1000


def test_a_run_leaves_checkpoints_and_metrics_of_what_it_trained(ttt_finished: Path) -> None:
    names = {path.name for path in ttt_finished.iterdir()}
    expected = {"checkpoints", "config.yaml", "export", "metrics.jsonl", "provenance.json"}
    assert names >= expected | {"tensorboard", ".lock"}
    assert steps_recorded(ttt_finished) == list(range(1, TOTAL_STEPS + 1))
    lines = metrics(ttt_finished)
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validations] == [0, 2, 4, 6, 8]
    for line in validations:
        assert line["loss"] == line["rows"]["trained"]["beyond_window"]
        assert line["rows"]["base"] == validations[0]["rows"]["base"]
        assert set(line["rows"]["gate"]) == {"layer_0", "layer_2"}
    rates = [line["learning_rate"] for line in lines if line["kind"] == "step"]
    assert all(set(each) == {"ttt", "gate", "lora"} for each in rates)
    last = sorted((ttt_finished / "checkpoints").glob("step-*"))[-1]
    size = sum(path.stat().st_size for path in last.iterdir())
    base = (BASE / "model.safetensors").stat().st_size
    assert size < base, "nothing of the base is saved"


def test_dry_run_prints_the_plan_and_writes_nothing(
    ttt_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert ttt_world.main(run, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "12 chapters, 9 by 3 speakers for training, " in printed
    assert "validation: 2 spans of held-out speakers, 128 frames" in printed
    assert "8 steps in 2 stages, 1 worker\n" in printed
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()][1:]
    # stage, frames, windows a step, at once, steps
    assert [[row[0], row[1], *row[3:6]] for row in rows] == [
        ["1", "32", "4", "1", "4"],
        ["2", "128", "2", "1", "4"],
    ]
    assert "parameters in float32 (ttt " in printed
    assert re.search(r"stage 2: 0\.0 GB at most, .*\(base 0\.0, trained", printed)
    assert "  validation: 0.0 GB at most (model 0.0, optimizer 0.0, copies 0.0, hearing" in printed
    assert "hours of an H100 at 40% of its peak" in printed
    assert not run.exists()


def test_two_ray_workers_train_what_one_process_trains(
    ttt_world: World, ttt_finished: Path, tmp_path: Path, ray_local: None
) -> None:
    run = tmp_path / "run"
    assert ttt_world.main(run, *ON_RAY) == 0
    ours, theirs = (
        [(line["step"], line["kind"], line.get("frames")) for line in metrics(folder)]
        for folder in (run, ttt_finished)
    )
    assert ours == theirs
    losses, expected = (
        [line["loss"] for line in metrics(folder) if "loss" in line]
        for folder in (run, ttt_finished)
    )
    assert losses == pytest.approx(expected, rel=1e-5)


REFUSED = {
    "another Mimi": (["model.mimi=tiny", "model.weights=tiny"], "its codes are synthetic"),
    "text that is not there": (["text=own"], "the own text of"),
    "a layer that is not there": (["ttt.layers=[0,3]"], "3"),
    "a layer below the first": (["ttt.layers=[-1]"], "layers [-1] do not fit: this model has 3"),
    "a layer named twice": (["ttt.layers=[0,0]"], "must name one or more, each once, got [0, 0]"),
    "no layers": (["ttt.layers=[]"], "ttt: layers must name one or more, each once, got []"),
    "a layer by its name": (["ttt.layers=[first]"], "ttt.layers.0: "),
    "half a layer": (["ttt.layers=[0.5]"], "ttt.layers.0: "),
    "a truth for a layer": (["ttt.layers=[true]"], "ttt.layers.0: "),
    "layers as a word": (["ttt.layers=all"], "ttt.layers: "),
    "a number for layers": (["ttt.layers=1"], "ttt.layers: "),
    "the control's layers": (
        ["ttt=null", "lora.rank=match", "lora.match={layers: [0, 9], num_heads: 3}"],
        "ttt: num_heads=3 must divide",
    ),
    "a rank of nothing": (["lora.rank=0"], "lora: rank must be match, 1 or more, got 0"),
    "heads that do not divide": (["ttt.num_heads=5"], "ttt: "),
    "a window longer than every chapter": (
        ["stages.1.frames=256"],
        "windows of 256 frames are longer than every one of 9 chapters, the longest of which has",
    ),
    "spans inside the window": (["validation.span_frames=4"], "no validation span reaches beyond"),
    "no chapter to train on": (["data.limit_chapters=0"], "limit_chapters must be at least 1"),
    "workers that do not divide": (
        ["cluster.num_workers=3"],
        "stages[0]: 4 micro-batches of 1 windows cannot be shared equally by 3 workers",
    ),
    "windows that are too many at once": (
        ["cluster.num_workers=2", "memory.frames_per_micro_batch=1000"],
        "lower memory.frames_per_micro_batch",
    ),
    "silence without a codec": (["other=silence"], "set other=masked"),
    "nothing to train": (["ttt=null", "lora=null"], "there is nothing to train"),
    "a held-out chapter that is not there": (
        ["data.validation_share=null", "data.validation_chapters=[speaker_0/1]"],
        "data.validation_chapters: no chapter of the cache is called speaker_0/1; did you mean",
    ),
    "two ways of holding out": (
        ["data.validation_chapters=[speaker_0/1]"],
        "set validation_share=null to hold out the chapters that are named",
    ),
    "nothing held out": (
        ["data.validation_share=null", "data.validation_chapters=[]"],
        "validation_chapters must name one or more, each once, got []",
    ),
    "no such cache": (["data.cache=nowhere"], "nowhere"),
    "no such base": (["model.weights=nowhere/at-all-0"], "nowhere/at-all-0"),
    "no such export": (["start_from=nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_refused_in_one_sentence(
    case: str, ttt_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, said = REFUSED[case]
    assert ttt_world.main(tmp_path / "run", *overrides) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") <= 2, "what a file holds wrong is listed below it"
    assert not (tmp_path / "run").exists()


def test_codes_and_text_of_others_are_refused(
    ttt_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mimi = load_mimi("tiny")
    mine = dataclasses.replace(MIMI, name=mimi.name, weights_sha256=mimi.weights_sha256)
    lengths = [80, 90, 70, 60]
    write_cache(tmp_path / "foreign", lengths)
    write_cache(tmp_path / "told", lengths, text=True, codes=mine)
    base = ["model.weights=tiny", "model.mimi=tiny", "ttt.num_heads=null", "stages.1.frames=64"]
    for cache, text, said in [
        ("foreign", "pad", "its codes were made by Mimi nano with weights aaaaaaaaaaaa, and"),
        ("told", "own", "is needed, and it is that of base (bbbbbbbbbbbbbbbb)"),
    ]:
        words = [*base, f"data.cache={tmp_path / cache}", f"text={text}", "--dry-run"]
        assert ttt_world.main(tmp_path / "run", *words) == 2
        assert said in capsys.readouterr().err


def test_a_run_that_diverges_names_windows_and_rates(
    ttt_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = "optim.peak_rates={ttt: 1e30, gate: 1e30, lora: 1e30}"
    words = [rates, "optim.max_skipped_in_row=2", "data.validation_share=null"]
    assert ttt_world.main(tmp_path / "run", *words) == 2
    error = capsys.readouterr().err
    assert "the loss or gradient was not finite in 2 steps in a row (windows speaker_" in error
    assert "lower optim.peak_rates" in error


def _runs_out(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


OUT_OF_MEMORY = {
    "forward": (
        "ttt.moshi.training.trainee.training_nll",
        "step 5: out of memory with 1 windows of",
    ),
    "optimizer": ("torch.optim.AdamW.step", "step 5: out of memory when the optimizer moved the"),
    "validation": (
        "ttt.moshi.training.exported.forms._as_loaded",
        "validation: out of memory; it holds the weights that LoRA goes into and the TTT layers",
    ),
}


@pytest.mark.parametrize("where", OUT_OF_MEMORY)
def test_out_of_memory_is_a_sentence_and_the_last_checkpoint_goes_on(
    where: str,
    ttt_world: World,
    ttt_finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, (name, said) = tmp_path / "run", OUT_OF_MEMORY[where]
    shutil.copytree(ttt_finished, run)
    for step in range(5, TOTAL_STEPS + 1):  # as if it stood after step 4
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(name, _runs_out)
        assert ttt_world.main(run, "--resume") == 2
    error = capsys.readouterr().err
    assert said in error
    assert "the last checkpoint is intact" in error
    assert "Traceback" not in error
    if where == "forward":
        assert "or lower memory.head_block (None) and memory.attention_block (None)" in error
    assert ttt_world.main(run, "--resume") == 0
    assert final(run) == final(ttt_finished)


def test_a_resumed_run_keeps_its_plan_but_for_memory(
    ttt_world: World, ttt_finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for overrides, said in [
        (["optim.peak_rates.ttt=2e-3"], "optim.peak_rates.ttt was 0.001 and is now 0.002"),
        (["stages.1.steps=5"], "stages was"),
        (["seed=1"], "seed was 0 and is now 1"),
    ]:
        assert ttt_world.main(ttt_finished, "--resume", *overrides) == 2
        assert said in capsys.readouterr().err
    saving = ["memory.checkpoint_layers=true", "memory.frames_per_micro_batch=64"]
    assert ttt_world.main(ttt_finished, "--resume", *saving) == 0


def test_synthetic_chapters_cannot_be_trained_on_by_another_language_unnoticed(
    ttt_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Codes outside of the base model's codebooks are refused before anything starts."""
    made = yaml.safe_load((ttt_world.folder / "cache.yaml").read_text())
    made["synthetic"]["language"] = {"cues": 32, "cues_per_block": 4, "card": 64}
    (tmp_path / "cache.yaml").write_text(yaml.safe_dump(made))
    cache = tmp_path / "cache"
    assert cache_chapters.main(["--config", str(tmp_path / "cache.yaml"), f"output={cache}"]) == 0
    assert ttt_world.main(tmp_path / "run", f"data.cache={cache}") == 2
    said = "its codes lie from 0 to 63, and those of"
    assert said in capsys.readouterr().err


def test_the_command_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_ttt.main(["--help"])
    assert "train TTT layers, or LoRA, in a Moshi that never changes" in capsys.readouterr().out


def test_the_export_is_heard_with_the_loss_that_validation_printed(
    ttt_world: World, ttt_finished: Path, tmp_path: Path
) -> None:
    """By evaluate_chapters from the same cache, in another process' worth of loading."""
    validations = [line for line in metrics(ttt_finished) if line["kind"] == "validation"]
    best = min(validations[1:], key=lambda line: line["loss"])
    output = tmp_path / "heard"
    arguments = {
        "output": str(output),
        "data": {"cache": str(ttt_world.folder / "cache"), "min_seconds": 0},
        "model": {
            "weights": str(BASE),
            "ttt": str(ttt_finished / "export"),
            "mimi": "synthetic",
            "dtype": "float32",
        },
        "streams": {"text": "pad", "other": "masked"},
        "max_frames": 64,
        "cluster": {"num_workers": 0},
    }
    config = tmp_path / "heard.yaml"
    config.write_text(yaml.safe_dump(arguments))
    assert evaluate_chapters.main(["--config", str(config)]) == 0
    plan = plan_of(ttt_world, ttt_finished)
    names = [span.chapter_id for span in plan.spans]
    means = {}
    for model, row in (("ttt", "trained"), ("baseline", "base")):
        nll = [read_record(record_path(records_root(output, model), name)).nll for name in names]
        mixed = [np.asarray(mixture("moshi", 8)) @ each.astype(np.float64) for each in nll]
        means[model] = float(np.mean([each[plan.window :].mean() for each in mixed]))
        assert means[model] == best["rows"][row]["beyond_window"]
    assert means["ttt"] != means["baseline"]


def test_a_run_starts_from_what_another_left(
    ttt_world: World, ttt_finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export, run = ttt_finished / "export", tmp_path / "run"
    assert ttt_world.main(run, f"start_from={export}", "seed=5") == 0
    best = min(
        (line for line in metrics(ttt_finished) if line["kind"] == "validation" and line["step"]),
        key=lambda line: line["loss"],
    )
    assert metrics(run)[0]["loss"] == best["loss"]
    digest = FileIdentity.of(export / "ttt.safetensors").sha256
    told = f"- started from: {export} (sha256: ttt.safetensors {digest[:12]}"
    assert told in (run / "export" / "README.md").read_text()
    assert "started from" not in (export / "README.md").read_text()
    capsys.readouterr()
    assert ttt_world.main(tmp_path / "other", f"start_from={export}", "ttt.layers=[0,1]") == 2
    assert "ttt.layers is [0, 2] there, and [0, 1] in this" in capsys.readouterr().err


def test_a_base_with_a_lora_inside_is_refused(
    ttt_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm, base = load_moshi(str(BASE), dtype="float32").lm, tmp_path / "base"
    insert_lora(lm, 2)
    save_lora(lm, base, base_arguments(str(BASE)))
    shutil.copy(BASE / "model.safetensors", base)
    config = read_json(base / "config.json")
    write_json(base / "config.json", {**config, "lora_name": "lora.safetensors"})
    assert ttt_world.main(tmp_path / "run", f"model.weights={base}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the base model has a LoRA of its own in ")
    assert "name a base without, or fuse it into the weights first" in line


def _other_base(export: Path) -> tuple[list[str], str]:
    return [f"model.weights={OTHER_BASE}"], "belongs to the base model"


def _ttt_in_lora(export: Path) -> tuple[list[str], str]:
    tensors = load_file(export / "lora.safetensors")
    save_file(
        {**tensors, "transformer.layers.0.ttt.alpha": torch.zeros(8)}, export / "lora.safetensors"
    )
    return [], "lora.safetensors holds TTT layers, too (1 tensors, the first transformer.layers.0"


def _no_number(export: Path) -> tuple[list[str], str]:
    tensors = load_file(export / "ttt.safetensors")
    name = "transformer.layers.0.ttt.alpha"
    tensors[name][3] = float("nan")
    save_file(tensors, export / "ttt.safetensors")
    return [], f"{name} holds values that are no finite numbers"


OTHER_BASE = Path(__file__).parents[1] / "fixtures/tiny_moshi_effect/baseline"


@pytest.mark.parametrize("spoil", [_other_base, _ttt_in_lora, _no_number])
def test_an_export_that_is_none_for_this_base_starts_nothing(
    spoil: Callable[[Path], tuple[list[str], str]],
    ttt_world: World,
    ttt_finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export = Path(shutil.copytree(ttt_finished / "export", tmp_path / "export"))
    words, said = spoil(export)
    assert ttt_world.main(tmp_path / "run", f"start_from={export}", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_which_keys_make_a_chapter_of_the_7b_fit() -> None:
    """By sum, from the published model's outline: nothing is loaded."""
    stages = [{"frames": 3000, "steps": 1, "frames_per_step": 3000}]
    layers = {"layers": list(range(16, 32)), "kind": "mlp"}
    config = TrainTTTConfig(
        run="run",
        data=TrainingChaptersConfig(cache="cache"),
        ttt=TTTLayersConfig(**layers),
        stages=tuple(WindowStageConfig(**stage) for stage in stages),
    )
    with torch.device("meta"):
        published = loaders.get_moshi_lm(None, None, "meta", torch.bfloat16, None, False, {})
    plain = on_a_card(advice(published, config, 24_000, 1, CARD_BYTES))
    assert plain.startswith("; for a card of 80 GB set memory.checkpoint_layers=true, ")
    assert "memory.checkpoint_mini_batches=auto" in plain
    too_much = on_a_card(advice(published, config, 24_000, 4, CARD_BYTES))
    assert "more than a card of 80 GB has" in too_much
    assert "take fewer frames in a micro-batch" in too_much

"""A decoder is found in an export, in a run's export, and in a run's best checkpoint."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from ray_jobs import export_onnx
from ray_jobs.config.load import dump_yaml
from ray_jobs.decoder.evaluate.plan import plan_evaluation
from ray_jobs.decoder.evaluate_config import EvaluateConfig
from ray_jobs.decoder.source import find_decoder
from ray_jobs.decoder.train_config import DataConfig, TrainConfig
from tests.object_store import ObjectStore
from ttt import checkpoint, records, storage
from ttt.errors import UserError
from ttt.snac.cache.catalogue import held_out_rows
from ttt.snac.load import load_codec, weights_sha256
from ttt.snac.model import Decoder48k
from ttt.snac.onnx import read_metadata


@pytest.fixture
def run(tmp_path: Path, small_codec: Path, small_cache: Path) -> Path:
    """A run with two checkpoints, the older one best, and no export."""
    folder = tmp_path / "run"
    config = TrainConfig(
        run=str(folder),
        codec=str(small_codec),
        data=DataConfig(train=str(small_cache), validation_share=0.5),
    )
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_yaml(config))
    for step in (1, 2):
        decoder = _decoder(small_codec, 0.1 * step)
        snapshot = checkpoint.Snapshot(step, {"model": dict(decoder.state_dict())}, {}, {})
        checkpoint.save(str(folder), snapshot)
    checkpoint.mark_best(str(folder), 1, 0.5)
    records.append_jsonl(folder / "metrics.jsonl", {"kind": "step", "step": 1})
    return folder


def _decoder(codec: Path, shift: float) -> Decoder48k:
    decoder = Decoder48k.from_snac(load_codec(codec).model)
    with torch.no_grad():
        for parameter in decoder.head_parameters():
            parameter.add_(shift)
    return decoder


def _same(ours: Decoder48k, theirs: Decoder48k) -> bool:
    second = theirs.state_dict()
    return all(torch.equal(value, second[name]) for name, value in ours.state_dict().items())


def test_the_best_checkpoint_is_exported(run: Path, small_codec: Path, tmp_path: Path) -> None:
    source = find_decoder(str(run))
    assert source.kind == "checkpoint step-00000001 of a run"
    assert source.history() == [{"kind": "step", "step": 1}]
    folder = source.export_into(tmp_path / "made")
    assert _same(Decoder48k.from_pretrained(folder), _decoder(small_codec, 0.1))


def test_the_best_checkpoint_becomes_an_onnx_file_and_nothing_else_is_written(
    run: Path, small_codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    file = tmp_path / "voice.onnx"
    before = set(tmp_path.rglob("*"))
    assert export_onnx.main([f"decoder={run}", f"output={file}"]) == 0
    assert set(tmp_path.rglob("*")) - before == {file}
    best = _decoder(small_codec, 0.1)
    assert read_metadata(file)["decoder_sha256"] == weights_sha256(best)


def test_an_export_replaces_another_only_where_nothing_refuses_it(
    run: Path, small_codec: Path, tmp_path: Path
) -> None:
    source, folder = find_decoder(str(run)), tmp_path / "decoder"
    _decoder(small_codec, 0.9).save_pretrained(folder)
    refused = source.exporting(folder)
    assert _same(Decoder48k.from_pretrained(refused.__enter__()), _decoder(small_codec, 0.1))
    error = UserError("results of another decoder")
    assert not refused.__exit__(UserError, error, None)
    assert _same(Decoder48k.from_pretrained(folder), _decoder(small_codec, 0.9))
    with source.exporting(folder):
        pass
    assert _same(Decoder48k.from_pretrained(source.exported(folder)), _decoder(small_codec, 0.1))
    assert [path.name for path in tmp_path.iterdir() if path != run] == ["decoder"]


def test_averaged_weights_are_the_ones_validated(
    run: Path, small_codec: Path, tmp_path: Path
) -> None:
    tensors = {
        "model": dict(_decoder(small_codec, 0.1).state_dict()),
        "ema": dict(_decoder(small_codec, 0.7).state_dict()),
    }
    checkpoint.save(str(run), checkpoint.Snapshot(3, tensors, {}, {}))
    checkpoint.mark_best(str(run), 3, 0.1)
    folder = find_decoder(str(run)).export_into(tmp_path / "made")
    assert _same(Decoder48k.from_pretrained(folder), _decoder(small_codec, 0.7))


def test_a_runs_export_comes_first_and_knows_its_run(run: Path, small_export: Path) -> None:
    shutil.copytree(small_export, run / "export")
    for path in (run, run / "export"):
        source = find_decoder(str(path))
        assert source.export == str(run / "export")
        assert source.kind == "export of a run"
        assert source.training is not None
    alone = find_decoder(str(small_export))
    assert (alone.kind, alone.run, alone.training, alone.history()) == ("export", None, None, [])


@pytest.mark.parametrize("exported", [True, False])
def test_a_run_on_an_object_store_is_found_and_fetched(
    run: Path, small_export: Path, object_store: ObjectStore, tmp_path: Path, exported: bool
) -> None:
    if exported:
        shutil.copytree(small_export, run / "export")
    for path in (path for path in run.rglob("*") if path.is_file()):
        storage.upload(path, object_store.uri(f"run/{path.relative_to(run)}"))
    here, there = find_decoder(str(run)), find_decoder(object_store.uri("run"))
    assert (there.kind, there.training) == (here.kind, here.training)
    assert there.history() == here.history()
    theirs = Decoder48k.from_pretrained(there.export_into(tmp_path / "fetched"))
    assert _same(Decoder48k.from_pretrained(here.export_into(tmp_path / "made")), theirs)
    if exported:
        assert find_decoder(object_store.uri("run/export")).run == object_store.uri("run")


def test_without_data_the_runs_held_out_clips_are_measured(
    run: Path, small_codec: Path, small_cache: Path
) -> None:
    plan = plan_evaluation(EvaluateConfig(decoder=str(run), output="out"))
    assert plan.codec == str(small_codec.resolve())
    assert plan.kind == "the run's held-out clips"
    (row,) = held_out_rows(["a/0.wav", "a/1.wav"], 0.5)
    assert [item.clip_id for item in plan.items] == [f"a/{row}.wav"]


def test_a_run_that_held_nothing_out_needs_data(run: Path, small_cache: Path) -> None:
    config = find_decoder(str(run)).training
    assert config is not None
    data = DataConfig(train=str(small_cache), validation_share=None)
    (run / "config.yaml").write_text(dump_yaml(dataclasses.replace(config, data=data)))
    with pytest.raises(UserError, match="the run held no clips out"):
        plan_evaluation(EvaluateConfig(decoder=str(run), output="out"))


def test_what_is_no_decoder_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.yaml: a file; give the folder of an export"):
        find_decoder(str(run / "config.yaml"))
    with pytest.raises(UserError, match="absent: no such folder; give an export"):
        find_decoder("absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: neither an exported decoder"):
        find_decoder(str(tmp_path / "empty"))
    (tmp_path / "sweep" / "trials").mkdir(parents=True)
    with pytest.raises(UserError, match=r"a sweep; give its best decoder, .*sweep/export"):
        find_decoder(str(tmp_path / "sweep"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("init: interp", "init: average"))
    with pytest.raises(UserError, match=r"does not fit codec .* with init average"):
        find_decoder(str(run)).export_into(tmp_path / "made")

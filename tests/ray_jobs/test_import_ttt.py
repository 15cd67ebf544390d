"""The import of the original's checkpoints as a job: from its files to losses, and what it says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ray_jobs import import_ttt
from tests.ttt.moshi.original_files import (
    SHAPE,
    lora_tensors,
    renamed,
    ttt_tensors,
    write_checkpoint,
)
from ttt.moshi import evaluate_codes, load_ttt, tiny_lm
from ttt.moshi.tiny import tiny_arguments
from ttt.moshi.ttt_files import base_fingerprint


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model in the published layout."""
    folder = tmp_path / "base"
    folder.mkdir()
    arguments = tiny_arguments(
        32, card=64, text_card=48, depformer_layers=2, depformer_heads=4, **SHAPE
    )
    (folder / "config.json").write_text(json.dumps(arguments))
    save_file(tiny_lm(**SHAPE).state_dict(), folder / "model.safetensors")
    return folder


def test_an_imported_checkpoint_is_heard(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = ttt_tensors() | renamed(lora_tensors())
    folder = write_checkpoint(tmp_path / "in", tensors)
    words = [f"input={folder}", f"output={tmp_path / 'out'}", f"weights={base}"]
    assert import_ttt.main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    told = capsys.readouterr().out
    assert "-> layer.q_proj.weight" in told
    assert "they fit the base model" in told
    assert import_ttt.main(words) == 0
    assert f"ready for model.ttt={tmp_path / 'out'}" in capsys.readouterr().out
    codes = torch.randint(60, (1, 8, 20), generator=torch.Generator().manual_seed(0))
    lm = tiny_lm(**SHAPE)
    plain = evaluate_codes(lm, codes, text_stream="masked", other_stream="masked").nll
    lm = tiny_lm(**SHAPE)
    assert load_ttt(lm, tmp_path / "out") == 1
    heard = evaluate_codes(lm, codes, text_stream="masked", other_stream="masked").nll
    assert heard.isfinite().all()
    assert (heard - plain).abs().max() > 1e-3
    assert json.loads((tmp_path / "out" / "ttt.json").read_text())[
        "base_fingerprint"
    ] == base_fingerprint(tiny_lm(**SHAPE))
    assert (tmp_path / "out" / "config.yaml").exists()
    assert import_ttt.main(words) == 2
    assert "not empty" in capsys.readouterr().err


def test_layers_are_bound_to_no_base_where_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "in", ttt_tensors())
    assert import_ttt.main([f"input={folder}", f"output={tmp_path / 'out'}"]) == 0
    assert "no base model whose shapes fit will be refused" in capsys.readouterr().out
    for seed in (0, 1):
        assert load_ttt(tiny_lm(seed=seed, **SHAPE), tmp_path / "out") == 1


def test_what_cannot_be_imported_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_lm(seed=4, **SHAPE).state_dict()
    whole = write_checkpoint(
        tmp_path / "whole", ttt_tensors() | renamed(other), name="consolidated"
    )
    strange = write_checkpoint(tmp_path / "in", {**ttt_tensors(), "strange": torch.zeros(1)})
    output = f"output={tmp_path / 'out'}"
    for words, sentence in (
        ([f"input={strange}"], "1 tensors were not understood, and nothing was imported: strange"),
        ([f"input={tmp_path / 'nowhere'}"], "not a checkpoint of the original code"),
        ([f"input={whole}", f"weights={base}"], "is the base model"),
        ([f"input={whole}", "base_lr=0"], "base_lr must be above 0, or null"),
        (["input=s3://bucket/x"], "input must be a local folder, not a URI"),
    ):
        assert import_ttt.main([*words, output]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

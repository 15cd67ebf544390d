"""Moshi and Mimi from folders in the published layout, and what is said when they do not fit."""

import json
from pathlib import Path

import pytest
import torch
from moshi.models import loaders
from safetensors.torch import save_file

from ttt.errors import UserError
from ttt.moshi.load import load_mimi, load_moshi, outline_moshi
from ttt.moshi.tiny import _config, tiny_lm, tiny_mimi
from ttt.moshi.ttt_files import base_fingerprint

LM_CONFIG = {
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "n_q": 16, "dep_q": 8, "card": 64, "text_card": 48, "dim": 128, "num_heads": 4,
    "num_layers": 4, "hidden_scale": 4.125, "causal": True, "layer_scale": None, "context": 32,
    "max_period": 10000, "gating": "silu", "norm": "rms_norm_f32", "positional_embedding": "rope",
    "depformer_dim": 64, "depformer_dim_feedforward": 264, "depformer_num_heads": 4,
    "depformer_num_layers": 2, "depformer_layer_scale": None, "depformer_multi_linear": True,
    "depformer_context": 8, "depformer_max_period": 10000, "depformer_gating": "silu",
    "depformer_pos_emb": "none", "depformer_weights_per_step": True,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tiny models in the published layout."""
    names = {"moshi_name": "lm.safetensors", "mimi_config_name": "mimi.json", "model_type": "moshi"}
    (tmp_path / "config.json").write_text(json.dumps({**LM_CONFIG, **names}))
    (tmp_path / "mimi.json").write_text(json.dumps(_config(bins=64, context=30)))
    save_file(tiny_lm(seed=3).state_dict(), tmp_path / "lm.safetensors")
    mimi = "tokenizer-e351c8d8-checkpoint125.safetensors"
    save_file(tiny_mimi(seed=3, context=30).state_dict(), tmp_path / mimi)
    return tmp_path


def test_moshi_from_a_folder_is_the_saved_one(folder: Path) -> None:
    loaded = load_moshi(str(folder), dtype="float32")
    theirs = tiny_lm(seed=3).state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in loaded.lm.state_dict().items())
    assert loaded.lm.context == 32
    assert len(loaded.weights_sha256 or "") == 64
    assert not loaded.lm.training


def test_precision_and_overrides(folder: Path) -> None:
    loaded = load_moshi(str(folder), lm_kwargs={"context": 48})
    assert loaded.lm.text_linear.weight.dtype == torch.bfloat16
    assert loaded.lm.context == 48
    assert loaded.fingerprint == base_fingerprint(tiny_lm(seed=3))


def test_mimi_from_a_folder_gives_the_same_codes(folder: Path) -> None:
    loaded, audio = load_mimi(str(folder)), torch.randn(1, 1, 19_200)
    with torch.no_grad():
        theirs = tiny_mimi(seed=3, context=30).encode(audio)
        assert torch.equal(loaded.mimi.encode(audio), theirs)
    assert len(loaded.weights_sha256) == 64


def test_the_tiny_models_need_no_files() -> None:
    lm = load_moshi("tiny", dtype="float32", lm_kwargs={"context": 16, "seed": 4}).lm
    assert torch.equal(lm.text_linear.weight, tiny_lm(seed=4, context=16).text_linear.weight)
    assert load_mimi("tiny").mimi.num_codebooks == 8
    with pytest.raises(UserError, match="the tiny model takes no contxt; it takes card, context"):
        load_moshi("tiny", lm_kwargs={"contxt": 16})


def test_what_does_not_fit_is_named(folder: Path) -> None:
    def refuse(sentence: str, name: str = str(folder), **settings: object) -> None:
        with pytest.raises(UserError, match=sentence):
            load_moshi(name, **settings)  # type: ignore[arg-type]

    refuse("no such folder, and no repository", name=str(folder / "none"))
    refuse("not to be had from the hub .* give that folder instead", name="nobody/nothing")
    refuse("Moshi's model takes no contxt", lm_kwargs={"contxt": 1})
    refuse(r"lm.safetensors: cannot be loaded as Moshi \(.*size", lm_kwargs={"text_card": 50})
    weights = folder / "lm.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    refuse("lm.safetensors: cannot be loaded as Moshi")
    weights.unlink()
    refuse("lm.safetensors: cannot be loaded as Moshi")
    (folder / "config.json").write_text("{")
    refuse("config.json: cannot be read as JSON")
    (folder / "mimi.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({**LM_CONFIG, "mimi_config_name": "mimi.json"}))
    with pytest.raises(UserError, match="cannot be loaded as Mimi"):
        load_mimi(str(folder))
    with pytest.raises(UserError, match=r"holds neither model.safetensors nor tokenizer-"):
        load_mimi(str(folder.parent))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), MemoryError()]
)
def test_what_is_larger_than_the_memory_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*args: object, **settings: object) -> None:
        raise error

    for part, load in (("get_moshi", load_moshi), ("get_mimi", load_mimi)):
        monkeypatch.setattr(loaders.CheckpointInfo, part, full)
        with pytest.raises(
            UserError, match=r"safetensors: out of memory while it was load"
        ) as told:
            load(str(folder))
        assert "\n" not in str(told.value)
        assert "()" not in str(told.value)
        assert "cannot be loaded as" not in str(told.value)


def test_outline_has_the_shape_of_the_model_and_no_weights(folder: Path) -> None:
    outline = outline_moshi(str(folder), dtype="float32", lm_kwargs={"context": 20})
    assert outline.device.type == "meta"
    assert outline.context == 20
    loaded = load_moshi(str(folder), dtype="float32").lm
    shapes = {name: tensor.shape for name, tensor in loaded.state_dict().items()}
    assert {name: tensor.shape for name, tensor in outline.state_dict().items()} == shapes
    with pytest.raises(UserError, match="the tiny model takes no width"):
        outline_moshi("tiny", lm_kwargs={"width": 3})

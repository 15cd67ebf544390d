"""A worker's models: the base is loaded once for baseline and TTT, its file read once a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ray_jobs.moshi import models
from ray_jobs.moshi.config import ChapterModelsConfig
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.layers import TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt, save_ttt, tiny_lm
from ttt.moshi.insert import ttt_layers
from ttt.moshi.load import LoadedMoshi
from ttt.moshi.lora import StoredLora, fuse_lora, read_lora, write_lora
from ttt.moshi.ttt_files import base_fingerprint


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[models.LoadedModels, list[str]]:
    """Models of tiny shape, and what was done to have them."""
    lm = tiny_lm()
    insert_ttt(lm, [1], TTTConfig(dim=lm.dim, num_heads=4), attention_context=9)
    save_ttt(lm, tmp_path)
    weights, done, load, of = (
        tmp_path / "weights.safetensors",
        [],
        models.load_moshi,
        FileIdentity.of,
    )
    save_file({"a": torch.zeros(1)}, weights)

    def loading(name: str, **settings: object) -> LoadedMoshi:
        done.append("load")
        made = load(name, **settings)  # type: ignore[arg-type]
        return LoadedMoshi(made.lm, name, made.fingerprint, weights)

    def hashing(path: str | Path) -> FileIdentity:
        done.append("hash")
        return of(path)

    monkeypatch.setattr(models, "load_moshi", loading)
    monkeypatch.setattr(FileIdentity, "of", hashing)
    config = ChapterModelsConfig(weights="tiny", ttt=str(tmp_path), dtype="float32")
    return models.LoadedModels(config, "cpu"), done


def test_the_base_is_loaded_and_hashed_once(held) -> None:
    loaded, done = held
    codes = torch.randint(60, (1, 8, 20), generator=torch.Generator().manual_seed(0))

    def nll(weights: models.Weights) -> torch.Tensor:
        return evaluate_codes(loaded.moshi(weights).lm, codes).nll

    said = [loaded.identity(weights, weights) for weights in ("ttt", "baseline")]
    assert said[0].context == said[1].context == 32
    first = {weights: nll(weights) for weights in ("baseline", "ttt")}
    assert not torch.equal(first["baseline"], first["ttt"])
    assert done == ["load", "hash"]
    for weights, expected in first.items():
        assert torch.equal(nll(weights), expected)
        alone = models.LoadedModels(loaded._config, "cpu").moshi(weights).lm  # type: ignore[arg-type]
        assert torch.equal(evaluate_codes(alone, codes).nll, expected)
    assert done == ["load", "hash", "load", "load"]


def test_a_worker_that_identifies_nothing_hashes_nothing(held) -> None:
    loaded, done = held
    loaded.moshi("baseline")
    assert done == ["load"]


def test_layers_that_do_not_load_leave_a_base_that_does(held, monkeypatch) -> None:
    loaded, done = held
    loaded.moshi("ttt")
    with monkeypatch.context() as patched:
        patched.setattr(models, "load_ttt", lambda *_, **__: 1 / 0)
        loaded.moshi("baseline")
        with pytest.raises(ZeroDivisionError):
            loaded.moshi("ttt")
    assert not ttt_layers(loaded.moshi("baseline").lm)
    assert ttt_layers(loaded.moshi("ttt").lm)
    assert done == ["load"]


def test_a_lora_beside_layers_is_theirs_alone(held) -> None:
    loaded, done = held
    folder = Path(loaded._config.ttt)
    write_pair(folder)
    said = [loaded.identity(weights, weights) for weights in ("ttt", "baseline", "ttt")]
    assert said[0].ttt["lora"]["linears"] == 1
    assert [each.lora for each in said] == [None] * 3
    weight = "transformer.layers.0.gating.linear_in.weight"
    plain, fused = tiny_lm(), tiny_lm()
    fuse_lora(fused, read_lora(folder))
    assert torch.equal(loaded.moshi("ttt").lm.get_parameter(weight), fused.get_parameter(weight))
    assert torch.equal(
        loaded.moshi("baseline").lm.get_parameter(weight), plain.get_parameter(weight)
    )
    assert done.count("load") == 3, "what the layers' LoRA did to the base is not taken back"


def test_a_lora_of_the_base_is_in_all_models_of_it(held, tmp_path: Path) -> None:
    loaded, done = held
    write_pair(tmp_path / "lora")
    config = replace(loaded._config, lora=str(tmp_path / "lora"))
    loaded = models.LoadedModels(config, "cpu")
    fused = tiny_lm()
    fuse_lora(fused, read_lora(tmp_path / "lora"))
    for weights in ("baseline", "ttt"):
        lm = loaded.moshi(weights).lm
        for name, tensor in fused.state_dict().items():
            assert torch.equal(lm.state_dict()[name], tensor), name
        said = loaded.identity(weights, weights)
        assert said.fingerprint == base_fingerprint(tiny_lm())
        assert said.lora["rank"] == 2
    assert done == ["load", "hash"]


def test_two_loras_are_refused(held, tmp_path: Path) -> None:
    loaded, _ = held
    for folder in (Path(loaded._config.ttt), tmp_path / "lora"):
        write_pair(folder)
    config = replace(loaded._config, lora=str(tmp_path / "lora"))
    with pytest.raises(UserError, match="brings the LoRA that was trained with its layers"):
        list(models.outlines(config))


def test_a_lora_of_another_base_is_refused(tmp_path: Path) -> None:
    for base, sentence in ((base_fingerprint(tiny_lm()), None), ("f" * 16, "LoRA belongs to the")):
        write_pair(tmp_path, base)
        config = ChapterModelsConfig(weights="tiny", lora=str(tmp_path), dtype="float32")
        loaded = models.LoadedModels(config, "cpu")
        if sentence is None:
            assert loaded.identity("baseline", "baseline").lora is not None
        else:
            with pytest.raises(UserError, match=f"{sentence} base model {base}, and this one is"):
                loaded.moshi("baseline")


def write_pair(folder: Path, base: str | None = None) -> None:
    """A LoRA of one Linear."""
    lm, name = tiny_lm(), "transformer.layers.0.gating.linear_in"
    linear = lm.get_submodule(name)
    pair = torch.ones(2, linear.in_features), torch.ones(linear.out_features, 2)
    tensors = {f"{name}.lora_{part}.weight": t for part, t in zip("AB", pair, strict=True)}
    write_lora(folder, StoredLora(str(folder), tensors, 2, 0.5, "", base), {})

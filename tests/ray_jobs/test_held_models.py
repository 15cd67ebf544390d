"""A worker's models: the base is loaded once for baseline and TTT, its file read once a run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ray_jobs.moshi import models
from ray_jobs.moshi.config import ChapterModelsConfig
from ttt.files.errors import FileIdentity
from ttt.layers import TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt, save_ttt, tiny_lm
from ttt.moshi.insert import ttt_layers
from ttt.moshi.load import LoadedMoshi


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
        patched.setattr(models, "load_ttt", lambda *_: 1 / 0)
        loaded.moshi("baseline")
        with pytest.raises(ZeroDivisionError):
            loaded.moshi("ttt")
    assert not ttt_layers(loaded.moshi("baseline").lm)
    assert ttt_layers(loaded.moshi("ttt").lm)
    assert done == ["load"]

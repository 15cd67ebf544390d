"""The switches are off where they must be, and back where they were behind a block."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from ray_jobs.decoder import decode as decode_worker
from ray_jobs.decoder.cache import encoder as cache_worker
from ray_jobs.decoder.evaluate import run as evaluate_worker
from ray_jobs.moshi.chapters import worker as chapter_worker
from ray_jobs.moshi.pairs import worker as pair_worker
from ttt.numerics import exact_float32, float32_is_exact
from ttt.snac.train import validation

CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def rounding():
    """Everything that rounds switched on, inside a block that puts it back."""
    with exact_float32():
        _round()
        yield


def _round() -> None:
    CUDNN.allow_tf32 = MATMUL.allow_tf32 = CUDNN.benchmark = True
    CUDNN.deterministic = False
    MATMUL.allow_fp16_reduced_precision_reduction = True
    MATMUL.allow_bf16_reduced_precision_reduction = True


def _exact() -> bool:
    rounds = (
        CUDNN.allow_tf32,
        MATMUL.allow_tf32,
        MATMUL.allow_fp16_reduced_precision_reduction,
        MATMUL.allow_bf16_reduced_precision_reduction,
    )
    return not any(rounds) and torch.get_float32_matmul_precision() == "highest"


def test_a_block_is_exact_and_leaves_the_switches_as_they_were():
    assert not float32_is_exact()
    with exact_float32():
        assert _exact()
        assert float32_is_exact()
    assert not float32_is_exact()
    assert CUDNN.allow_tf32
    assert MATMUL.allow_bf16_reduced_precision_reduction
    for where, name in ((CUDNN, "allow_tf32"), (MATMUL, "allow_tf32"), (CUDNN, "benchmark")):
        with exact_float32():
            setattr(where, name, True)
            assert not float32_is_exact()


def test_a_call_is_for_good():
    exact_float32()
    assert _exact()


class _Reached(Exception):
    pass


def _look(*_: object, **__: object) -> None:
    assert _exact()
    raise _Reached


@pytest.mark.parametrize(
    ("module", "worker", "first", "arguments", "named"),
    [
        (chapter_worker, "ChapterWorker", "LoadedModels", 2, {}),
        (pair_worker, "PairWorker", "LoadedModels", 2, {}),
        (evaluate_worker, "EvaluateWorker", "load_codec", 3, {}),
        (decode_worker, "DecodeWorker", "open_cache", 4, {}),
        (cache_worker, "ShardEncoder", "load_codec", 4, {}),
    ],
)
def test_actors_that_encode_or_evaluate_are_exact(
    module, worker, first, arguments, named, monkeypatch
):
    """Before they load a model, and so for all that they do."""
    monkeypatch.setattr(module, first, _look)
    monkeypatch.setattr(decode_worker.Decoder48k, "from_pretrained", lambda *_, **__: None)
    actor = getattr(module, worker)
    with pytest.raises(_Reached):
        actor(*[_Anything()] * arguments, **named)


class _Anything(SimpleNamespace):
    """A configuration of which any key may be asked."""

    threads, device, num_gpus = 1, "cpu", 0

    def __getattr__(self, name: str) -> "_Anything":
        return self


def test_validation_is_exact_and_training_goes_on_as_before(monkeypatch):
    monkeypatch.setattr(validation, "decode_windows", _look)
    monkeypatch.setattr(validation, "deterministic", lambda model: contextlib.nullcontext())
    group = SimpleNamespace(rank=0, world=1)
    with pytest.raises(_Reached):
        validation.validate(None, [None], None, group, precision="float32", untouched=None)
    assert CUDNN.allow_tf32

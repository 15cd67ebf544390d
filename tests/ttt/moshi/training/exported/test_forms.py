"""The forms of a model in training against models that were loaded: the same bits."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch

from tests.ttt.conftest import KINDS
from ttt.layers import TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt, load_ttt
from ttt.moshi.insert import ttt_layers
from ttt.moshi.lora import fuse_lora, read_lora
from ttt.moshi.training import base_form, exported_form, freeze_base, insert_lora, save_trained
from ttt.moshi.training.lora import lora_linears
from ttt.moshi.ttt_files import base_fingerprint

WHAT = ("ttt", "lora", "both")


def in_training(small_lm, what, *, dtype=torch.float32, kind="mlp", context=None):
    """A model as it is after some steps: the base frozen, what was inserted moved, in float32."""
    lm = small_lm(None, dtype=dtype)
    if what != "ttt":
        insert_lora(lm, 3, 1.7, generator=torch.Generator().manual_seed(1))
    if what != "lora":
        shape = TTTConfig(dim=64, num_heads=4, mini_batch_size=8, **KINDS[kind])
        insert_ttt(lm, [1, 3], shape, context, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(5)
    for named in freeze_base(lm).values():
        for parameter in named.values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return lm


def loaded(small_lm, lm, folder, **shape):
    """The base with what training has left in a folder, as the evaluation loads it."""
    base = small_lm(None, **shape)
    save_trained(lm, folder, {}, base_fingerprint=base_fingerprint(base), card="")
    if ttt_layers(lm):
        load_ttt(base, folder)
    else:
        fuse_lora(base, read_lora(folder))
    return base


def losses(lm, codes):
    return evaluate_codes(lm, codes, chunk=7).nll


def told(lm):
    """All that a form must leave as it was."""
    modules = [
        (name, type(each), list(each._modules), sorted(vars(each)), each.training)
        for name, each in lm.named_modules()
    ]
    contexts = [layer.self_attn.context for layer in lm.transformer.layers]
    parameters = [(n, id(p), p.requires_grad, p.dtype) for n, p in lm.named_parameters()]
    return modules, contexts, parameters


def bits(lm):
    return {n: t.clone().contiguous().view(torch.uint8) for n, t in lm.state_dict().items()}


CASES = [
    *itertools.product(WHAT, (torch.float32, torch.bfloat16), ("linear", "mlp"), (None,)),
    ("both", torch.bfloat16, "mlp", 5),
    ("ttt", torch.float32, "linear", 5),
    ("both", torch.bfloat16, "lact", None),
    ("ttt", torch.float32, "lact", None),
]


@pytest.mark.parametrize(("what", "dtype", "kind", "context"), CASES)
def test_the_exported_form_is_heard_as_its_export(
    small_lm, speech, tmp_path, what, dtype, kind, context
):
    lm = in_training(small_lm, what, dtype=dtype, kind=kind, context=context)
    codes = speech(batch=1)
    expected = losses(loaded(small_lm, lm, tmp_path, dtype=dtype), codes)
    before, values = told(lm), bits(lm)
    with exported_form(lm):
        assert not lora_linears(lm)
        assert torch.equal(losses(lm, codes), expected)
    assert told(lm) == before
    assert all(torch.equal(values[name], now) for name, now in bits(lm).items())
    with exported_form(lm):  # And again, after the model has streamed.
        assert torch.equal(losses(lm, codes), expected)


@pytest.mark.parametrize("what", WHAT)
def test_what_is_trained_is_not_heard_as_its_export_in_half_precision(small_lm, speech, what):
    """So the form is not an idle one."""
    lm, codes = in_training(small_lm, what, dtype=torch.bfloat16), speech(batch=1)
    with exported_form(lm):
        exported = losses(lm, codes)
    assert not torch.equal(losses(lm, codes), exported)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("what", WHAT)
def test_the_base_form_is_the_base(small_lm, speech, what, dtype):
    lm = in_training(small_lm, what, dtype=dtype, context=None if what == "lora" else 5)
    codes, before, values = speech(batch=1), told(lm), bits(lm)
    base = small_lm(None, dtype=dtype)
    with base_form(lm):
        assert lm.state_dict().keys() == base.state_dict().keys()
        assert torch.equal(losses(lm, codes), losses(base, codes))
    assert told(lm) == before
    assert all(torch.equal(values[name], now) for name, now in bits(lm).items())


@pytest.mark.parametrize("form", (exported_form, base_form))
def test_after_an_error_the_model_trains_on(small_lm, speech, form):
    lm = in_training(small_lm, "both", context=5)
    codes, before, values = speech(batch=1), told(lm), bits(lm)
    with contextlib.suppress(ZeroDivisionError), form(lm):
        losses(lm, codes)
        raise ZeroDivisionError
    assert told(lm) == before
    assert all(torch.equal(values[name], now) for name, now in bits(lm).items())


@pytest.mark.parametrize("form", (exported_form, base_form))
def test_a_streaming_model_keeps_its_form(small_lm, form):
    lm = in_training(small_lm, "both")
    before = told(lm)
    with (
        lm.streaming(1),
        pytest.raises(RuntimeError, match="is streaming cannot take another form"),
        form(lm),
    ):
        pass
    assert [each[:3] for each in told(lm)[0]] == [each[:3] for each in before[0]]

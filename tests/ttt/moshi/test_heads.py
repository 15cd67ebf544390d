"""Logits in float32 in a model of half precision, and every weight read once for all rows."""

from collections import Counter

import pytest
import torch
from moshi.utils.compile import no_compile
from torch.utils._python_dispatch import TorchDispatchMode

from ttt.moshi import Session, evaluate_codes
from ttt.moshi.insert import ttt_layers
from ttt.moshi.streaming import heads

INNER = ("W1", "b1", "W2", "b2", "ttt_norm_weight", "ttt_norm_bias", "learnable_ttt_lr_weight")


def _heard(lm, steps=9, batch=2):
    generator = torch.Generator().manual_seed(5)
    forced = torch.randint(40, (batch, 17, steps), generator=generator)
    hidden = torch.randn(batch, steps, lm.dim, generator=generator)
    return forced, hidden.to(lm.dtype)


@torch.no_grad()
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_in_float32_and_finer_the_logits_are_the_published_ones(small_lm, dtype):
    lm = small_lm(None, dtype=dtype)
    forced, hidden = _heard(lm)
    with no_compile():
        published = lm.forward_depformer_training(forced, hidden)
    assert torch.equal(heads.audio_logits(lm, forced, hidden), published)
    assert torch.equal(heads.text_logits(lm, hidden), lm.text_linear(hidden))


@torch.no_grad()
def test_heads_of_a_bfloat16_model_are_float32(small_lm):
    lm = small_lm(None, dtype=torch.bfloat16)
    forced, hidden = _heard(lm)
    told = {}
    hooks = [
        norm.register_forward_hook(lambda _, __, out, k=k: told.update({k: out}))
        for k, norm in enumerate(lm.depformer_norms)
    ]
    logits = heads.audio_logits(lm, forced, hidden)
    for hook in hooks:
        hook.remove()
    assert logits.dtype == torch.float32
    for k, head in enumerate(lm.linears):
        exact = told[k].double() @ head.weight.double().T
        assert (logits[:, k].flatten(0, 1) - exact).abs().max() < 1e-6
    with no_compile():
        rounded = lm.forward_depformer_training(forced, hidden).float()
    assert (rounded - logits).abs().max() > 1e-4


class Products(TorchDispatchMode):
    """Counts matrix products by kind, and the numbers that they read."""

    def __init__(self):
        super().__init__()
        self.count, self.read = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm", "matmul"):
            self.count[name] += 1
            self.read += sum(a.numel() for a in args if isinstance(a, torch.Tensor))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("trained", (True, False))
@pytest.mark.parametrize("hidden_apart", (True, False))
def test_the_depformer_reads_each_weight_once(small_lm, dtype, trained, hidden_apart):
    lm = small_lm(None, dtype=dtype).requires_grad_(trained)
    forced, hidden = _heard(lm, steps=16)
    if hidden_apart:  # rows that do not follow each other in memory, as what was kept of a pass
        hidden = torch.cat([hidden, hidden], dim=1)[:, :16]
    with torch.no_grad(), Products() as products:
        heads.audio_logits(lm, forced, hidden)
        heads.text_logits(lm, hidden)
    assert not products.count.keys() - {"mm", "addmm"}
    weights = sum(
        each.numel()
        for name, each in lm.named_parameters()
        if name.startswith(("depformer", "linears", "text_linear")) and "emb" not in name
    )
    rows = 2 * 16
    inputs = rows * sum(
        module.in_features
        for name, module in lm.named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.startswith(("depformer", "linears", "text_linear"))
    )
    assert products.read <= weights + inputs


@pytest.mark.parametrize("batch", (1, 2))
def test_a_frozen_model_hears_without_a_product_per_row(small_lm, speech, batch):
    lm = small_lm(None).requires_grad_(False)
    codes = speech(batch=batch, frames=30)
    with Products() as products:
        frozen = evaluate_codes(lm, codes, chunk=8)
    assert not products.count.keys() - {"mm", "addmm"}
    assert torch.equal(evaluate_codes(lm.requires_grad_(True), codes, chunk=8).nll, frozen.nll)


def test_gradients_flow_through_a_frozen_depformer(small_lm):
    lm = small_lm(None).requires_grad_(False)
    forced, hidden = _heard(lm)
    hidden.requires_grad_(True)
    with Products() as products:
        heads.audio_logits(lm, forced, hidden).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().max() > 0
    assert "bmm" not in products.count


@pytest.mark.parametrize("kind", ("linear", "mlp"))
@pytest.mark.parametrize(
    "move",
    (
        lambda lm: lm.to(torch.bfloat16),
        lambda lm: lm.bfloat16(),
        lambda lm: lm.half(),
        lambda lm: lm.to(device="cpu", dtype=torch.float16),
        lambda lm: lm.bfloat16().float(),
    ),
)
def test_what_the_small_model_starts_from_is_never_rounded(small_lm, kind, move):
    lm = small_lm(kind)
    before = {
        index: {name: each.clone() for name, each in ttt.layer.named_parameters(recurse=False)}
        for index, ttt in ttt_layers(lm).items()
    }
    move(lm)
    for index, ttt in ttt_layers(lm).items():
        inner = dict(ttt.layer.named_parameters(recurse=False))
        assert set(INNER) - {"W2", "b2"} <= set(inner)
        for name, parameter in inner.items():
            assert torch.equal(parameter, before[index][name]), name
        assert ttt.layer.q_proj.weight.dtype == lm.dtype


def test_ttt_inserted_into_a_bfloat16_model_is_float32_inside(small_lm, speech):
    lm, exact = small_lm(dtype=torch.bfloat16), small_lm()
    for (_, rounded), (_, whole) in zip(
        ttt_layers(lm).items(), ttt_layers(exact).items(), strict=True
    ):
        for name in INNER:
            assert torch.equal(getattr(rounded.layer, name), getattr(whole.layer, name)), name
        assert rounded.layer.q_proj.weight.dtype == torch.bfloat16
        assert rounded.layer.state_dtype == torch.float32
    with Session(lm, 2) as session:
        heard = session.step_chunk(speech(codebooks=16, frames=20))
    assert heard.audio_logits.dtype == heard.text_logits.dtype == torch.float32

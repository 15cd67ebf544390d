"""The activation and the residual unit against SNAC's own: values, gradients, what is kept."""

import copy
import pickle

import pytest
import snac.layers
import torch
import torchaudio.functional
from torch import nn

from ttt.snac.layers.resampler import Resampler
from ttt.snac.layers.snake import backward_plainly, forward_plainly, snake
from ttt.snac.layers.units import Snake, Unit, with_own_layers
from ttt.snac.model import Decoder48k

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1.6e-2}
"""The sine of 30 has the rounding of 30, whose slope here is up to 10."""


def snacs(x, alpha):
    """SNAC's formula, not compiled, in the widest type given."""
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).pow(2)


def inputs(dtype, shape=(2, 5, 700), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, grad = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    alpha = torch.rand(1, shape[1], 1, generator=generator, dtype=torch.float64) * 3 + 0.05
    wide = dtype if dtype == torch.float64 else torch.float32
    return x.to(dtype), alpha.to(wide), grad.to(dtype)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_values_and_gradients_are_snacs_within_rounding(dtype):
    x, alpha, grad = inputs(dtype)
    x.requires_grad_()
    alpha.requires_grad_()
    y = snake(x, alpha)
    y.backward(grad)
    exact_x, exact_alpha = (each.detach().double().requires_grad_() for each in (x, alpha))
    exact = snacs(exact_x, exact_alpha)
    exact.backward(grad.double())
    assert (y.dtype, x.grad.dtype, alpha.grad.dtype) == (dtype, dtype, alpha.dtype)
    within = ROUNDING[dtype]
    torch.testing.assert_close(y.double(), exact, rtol=within, atol=within)
    torch.testing.assert_close(x.grad.double(), exact_x.grad, rtol=within, atol=within)
    # A sum of 1,400 products whose roundings are independent.
    torch.testing.assert_close(
        alpha.grad.double(), exact_alpha.grad, rtol=0, atol=40 * max(within, 1e-12)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_values_on_a_cpu_are_snacs_bits(dtype):
    x, alpha, _ = inputs(dtype)
    assert torch.equal(snake(x, alpha), snac.layers.snake(x, alpha))
    with torch.no_grad():
        assert torch.equal(snake(x, alpha), snac.layers.snake(x, alpha))


def test_gradcheck():
    x, alpha, _ = inputs(torch.float64, (2, 3, 9))
    assert torch.autograd.gradcheck(snake, (x.requires_grad_(), alpha.requires_grad_()))


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 3, 0), (1, 1, 1)])
def test_empty_and_single_samples(shape):
    x, alpha, grad = inputs(torch.float32, shape)
    x.requires_grad_()
    alpha.requires_grad_()
    y = snake(x, alpha)
    y.backward(grad)
    assert y.shape == x.grad.shape == shape
    assert alpha.grad.shape == alpha.shape
    if not x.numel():
        assert not alpha.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_that_is_not_contiguous(dtype):
    x, alpha, grad = inputs(dtype, (3, 4, 50))
    for strided in (
        lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        lambda t: torch.stack([t, t], dim=-1)[..., 0],
    ):
        found = []
        for form in (strided, lambda t: t):
            leaf, rate = form(x).detach().requires_grad_(), alpha.clone().requires_grad_()
            y = snake(leaf, rate)
            y.backward(form(grad))
            found.append((y.detach().contiguous(), leaf.grad.contiguous(), rate.grad))
        for ours, straight in zip(*found, strict=True):
            assert torch.equal(ours, straight)


def test_again_is_the_same_bits_and_pieces_change_none_of_a_samples():
    x, alpha, grad = inputs(torch.float32, (4, 8, 40_000))  # several pieces of the backward
    first, second = (backward_plainly(grad, x, alpha, forward_plainly(x, alpha)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    alone = backward_plainly(grad[1:2], x[1:2], alpha, forward_plainly(x[1:2], alpha))
    assert torch.equal(first[0][1:2], alone[0])


def test_nothing_is_kept_but_input_alpha_and_output():
    x, alpha, _ = inputs(torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = snake(x.requires_grad_(), alpha.requires_grad_())
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, alpha, y)}


@pytest.mark.parametrize("dilation", [1, 3, 9])
@pytest.mark.parametrize("length", [1, 8, 300])
def test_a_units_gradients_are_snacs(dilation, length):
    torch.manual_seed(0)
    theirs = snac.layers.ResidualUnit(6, dilation=dilation, groups=6).double()
    ours = copy.deepcopy(theirs)
    with_own_layers(ours)
    assert type(ours) is Unit
    x = torch.randn(2, 6, length, dtype=torch.float64)
    grads = []
    for unit in (theirs, ours):
        given = x.clone().requires_grad_()
        out = unit(given)
        out.sin().sum().backward()
        grads.append([out, given.grad, *(each.grad for each in unit.parameters())])
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_a_units_gradcheck():
    torch.manual_seed(0)
    unit = snac.layers.ResidualUnit(3, dilation=3, groups=3).double()
    with_own_layers(unit)
    x = torch.randn(2, 3, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


@pytest.mark.parametrize("init", ["interp", "noble", "average"])
def test_without_gradients_a_decoder_has_torchs_own_bits(nano_snac, init):
    model = Decoder48k.from_snac(nano_snac, init=init)
    theirs = _with_snacs_layers(model)
    codes = [torch.zeros(2, n, dtype=torch.int64) for n in model.geometry.lengths(3)]
    made = []
    for each in (model, theirs):
        torch.manual_seed(0)
        made.append(each.decode(codes))
    assert torch.equal(*made)


def test_layers_survive_copies_and_keep_their_names(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    names = [*_with_snacs_layers(model).state_dict()]
    assert [*model.state_dict()] == names
    kinds = [[type(each) for each in one.modules()] for one in (model, copy.deepcopy(model))]
    assert kinds[0] == kinds[1]
    assert Unit in kinds[0]
    activation = Snake(3)  # torch pickles no layer under weight norm
    assert type(pickle.loads(pickle.dumps(activation))) is Snake
    assert not any(type(each) is snac.layers.Snake1d for each in model.modules())


def test_autocast_reaches_the_unit_as_it_reaches_snacs():
    torch.manual_seed(0)
    theirs = snac.layers.ResidualUnit(4, dilation=3, groups=4)
    ours = copy.deepcopy(theirs)
    with_own_layers(ours)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 4, 64).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = ours(x), theirs(x)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kept_filter_is_the_functions_bits(dtype):
    layer = Resampler(24_000, 48_000).to(dtype)
    audio = torch.randn(2, 1, 500, dtype=dtype)
    assert torch.equal(layer(audio), torchaudio.functional.resample(audio, 24_000, 48_000))
    assert not layer.state_dict()
    copied: nn.Module = copy.deepcopy(layer)
    assert torch.equal(copied(audio), layer(audio))


def _with_snacs_layers(model):
    theirs = copy.deepcopy(model)
    for module in theirs.modules():
        if type(module) in (Snake, Unit):
            module.__class__ = type(module).__base__
    return theirs

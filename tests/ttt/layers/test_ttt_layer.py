"""TTT layers of all flavours against slow ones; TTT-Linear and TTT-MLP against the published."""

import pytest
import torch
from safetensors import safe_open

from tests.oracles.slow_ttt import slow_layer
from ttt.errors import UserError
from ttt.layers import InnerControls, TTTConfig, TTTLayer, load_reference_parameters
from ttt.layers.flavour import Projected
from ttt.layers.inner_steps import SeveralSteps

KINDS = ("linear", "mlp")


def golden(folder, kind):
    """The published layer's metadata, parameters, input and output."""
    with safe_open(folder / f"ttt_{kind}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = file.metadata()
    parameters = {k.removeprefix("param."): t for k, t in tensors.items() if k.startswith("param.")}
    return metadata, parameters, tensors["input"], tensors["output"]


def layer_of(metadata, parameters):
    config = TTTConfig(
        dim=int(metadata["hidden_size"]),
        num_heads=int(metadata["num_heads"]),
        kind=metadata["kind"],
        mini_batch_size=int(metadata["mini_batch_size"]),
        base_lr=float(metadata["base_lr"]),
        rope_theta=float(metadata["rope_theta"]),
    )
    layer = TTTLayer(config).double()
    load_reference_parameters(layer, parameters)
    return layer


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equals_the_published_layer(golden_ttt, kind):
    metadata, parameters, x, expected = golden(golden_ttt, kind)
    layer = layer_of(metadata, parameters)
    y, _ = layer(x, layer.init_state(len(x)))
    assert (y - expected).abs().max() < 1e-10
    state, pieces = layer.init_state(len(x)), []
    for piece in x.split(1, dim=1):
        y, state = layer(piece, state)
        pieces.append(y)
    assert (torch.cat(pieces, dim=1) - expected).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_another_layer_are_refused(golden_ttt, kind):
    metadata, parameters, _, _ = golden(golden_ttt, kind)
    layer = layer_of(metadata, parameters)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    smaller = {**parameters, "b1": parameters["b1"][:1], "g_proj.weight": torch.zeros(2, 2)}
    with pytest.raises(UserError) as error:
        load_reference_parameters(layer, smaller)
    assert "b1: needed" in str(error.value)
    assert "g_proj.weight: needed nothing, given (2, 2)" in str(error.value)
    with pytest.raises(UserError, match=r"W1: needed .*, given nothing"):
        load_reference_parameters(layer, {k: t for k, t in parameters.items() if k != "W1"})
    assert all(torch.equal(layer.state_dict()[name], old) for name, old in before.items())


@pytest.mark.parametrize("rope_theta", [10_000.0, None])
@torch.no_grad()
def test_equals_a_slow_layer_that_knows_only_the_definition(make_affine_layer, rope_theta):
    layer = make_affine_layer(rope_theta=rope_theta)
    x = torch.randn(2, 27, layer.config.dim, dtype=torch.float64)
    y, _ = layer(x, layer.init_state(2))
    for row in range(2):
        assert (slow_layer(layer, x[row]) - y[row]).abs().max() < tolerance_of(layer)


def tolerance_of(layer):
    """The gelu's derivative has the reference's shortened constants: not exact for TTT-MLP."""
    return 1e-6 if layer.config.kind == "mlp" and layer.config.flavour != "lact" else 1e-12


def gradients_of(layer, forward, x):
    """The gradients of a loss over forward(x) [T, dim] with respect to x and all parameters."""
    x = x.clone().requires_grad_()
    named = {"x": x, **dict(layer.named_parameters())}
    weighing = torch.linspace(0.5, 2, x.numel(), dtype=x.dtype).view_as(x)
    loss = (weighing * forward(x)).square().mean()
    return dict(zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True))


def test_gradients_through_the_inner_steps_are_the_slow_layers(make_layer):
    layer = make_layer()
    x = torch.randn(19, layer.config.dim, dtype=torch.float64)
    found = gradients_of(layer, lambda x: layer(x[None], layer.init_state(1))[0][0], x)
    expected = gradients_of(layer, lambda x: slow_layer(layer, x), x)
    tolerance = tolerance_of(layer)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        assert (found[name] - gradient).abs().max() < tolerance * gradient.abs().max(), name


def test_gradients_in_float32_are_those_in_float64(make_layer):
    layer = make_layer()
    x = torch.randn(43, layer.config.dim, dtype=torch.float64)

    def forward(x):
        return layer(x[None], layer.init_state(1))[0][0]

    exact = gradients_of(layer, forward, x)
    layer.float()
    for name, gradient in gradients_of(layer, forward, x.float()).items():
        assert (gradient - exact[name]).abs().max() < 1e-4 * exact[name].abs().max(), name


CONTROLS = {
    "ascent": InnerControls(ascent=True),
    "query is key": InnerControls(query_is_key=True),
    "two steps": InnerControls(inner_steps=2),
    "five steps": InnerControls(inner_steps=5),
    "all": InnerControls(ascent=True, query_is_key=True, inner_steps=3),
}


@pytest.mark.parametrize("controls", CONTROLS.values(), ids=CONTROLS)
@torch.no_grad()
def test_a_control_is_what_the_slow_layer_does_under_it(make_layer, controls):
    layer = make_layer()
    x = torch.randn(2, 20, layer.config.dim, dtype=torch.float64)
    plain, _ = layer(x, layer.init_state(2))
    layer.controls = controls
    y, _ = layer(x, layer.init_state(2))
    tolerance = tolerance_of(layer)
    for row in range(2):
        expected = slow_layer(layer, x[row], controls)
        assert (expected - y[row]).abs().max() < tolerance
    assert (y - plain).abs().max() > 1e3 * tolerance


@torch.no_grad()
def test_one_step_by_the_way_of_several_is_the_published_layer(make_affine_layer):
    layer = make_affine_layer()
    x = torch.randn(2, 43, layer.config.dim, dtype=torch.float64)
    state, flavour = layer.init_state(2), layer.flavour
    projected = Projected(layer.q_proj(x), layer.k_proj(x), layer.v_proj(x))
    tokens = flavour.tokens(layer, layer.controls, x, projected, 0)
    published = flavour.loop(layer, layer.controls)
    one = SeveralSteps(published.factors, published.eps, inner_steps=1)
    found = one.hear(tokens, state.weights, one.no_tokens(state.weights))
    expected = published.hear(tokens, state.weights, state.open)
    outputs = (flavour.output(layer, tokens, each.answers) for each in (found, expected))
    assert distance(*outputs) < 1e-12
    assert len(found.committed) == len(expected.committed) == 5
    for here, there in zip(found.weights, expected.weights, strict=True):
        for pair in zip(here, there, strict=True):
            assert distance(*pair) < 1e-12


def distance(one, other):
    return (one - other).abs().max()


def test_gradients_through_several_steps_are_the_slow_layers(make_layer):
    layer = make_layer()
    layer.controls = InnerControls(inner_steps=2)
    x = torch.randn(18, layer.config.dim, dtype=torch.float64)
    found = gradients_of(layer, lambda x: layer(x[None], layer.init_state(1))[0][0], x)
    expected = gradients_of(layer, lambda x: slow_layer(layer, x, layer.controls), x)
    tolerance = tolerance_of(layer)
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < tolerance * gradient.abs().max(), name


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"inner_steps": 0}, "inner_steps must be 1 or more, not 0"),
        ({"updates": False, "ascent": True}, "without updates there is no step"),
        ({"updates": False, "inner_steps": 2}, "without updates there is no step"),
    ],
)
def test_controls_that_cannot_be_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        InnerControls(**fields)


@torch.no_grad()
def test_with_updates_off_nothing_is_learnt(make_layer):
    layer = make_layer()
    layer.controls = InnerControls(updates=False)
    x = torch.randn(2, 30, layer.config.dim, dtype=torch.float64)
    y, state = layer(x, layer.init_state(2))
    assert torch.equal(layer.fast_weight_change(state), torch.zeros(2, dtype=torch.float64))
    other = x.clone()
    other[:, 3] += 1
    y_other, _ = layer(other, layer.init_state(2))
    assert torch.equal(y_other[:, 4:], y[:, 4:])
    layer.updates = True
    assert layer.controls == InnerControls()
    assert not torch.equal(layer(x, layer.init_state(2))[0], y)
    layer.updates = False
    assert torch.equal(layer(x, layer.init_state(2))[0], y)


@torch.no_grad()
def test_the_change_of_the_fast_weights_is_per_stream_and_relative(make_layer):
    layer = make_layer()
    x = torch.randn(2, 30, layer.config.dim, dtype=torch.float64)
    _, state = layer(x, layer.init_state(2))
    change = layer.fast_weight_change(state)
    start = torch.cat([p.flatten() for n, p in layer.named_parameters() if n[0] in "Wb"])
    for row in range(2):
        maps = [each._asdict() for each in state.weights]
        now = [t[row].flatten() for each in maps for n, t in each.items() if n != "velocity"]
        now = torch.cat(now)
        assert change[row].item() == pytest.approx(((now - start).norm() / start.norm()).item())
    _, first = layer(x[:, :8], layer.init_state(2))
    assert torch.equal(layer.fast_weight_change(first), torch.zeros(2, dtype=torch.float64))


def test_inference_first_does_not_hinder_training():
    layer = TTTLayer(TTTConfig(dim=24, num_heads=2, mini_batch_size=5))
    x = torch.randn(1, 12, 24)
    with torch.inference_mode():
        layer(x, layer.init_state(1))
    y, _ = layer(x, layer.init_state(1))
    y.sum().backward()
    assert layer.k_proj.weight.grad is not None


def test_initial_parameters_follow_the_generator():
    config = TTTConfig(dim=16, num_heads=2)
    first, second = (
        TTTLayer(config, torch.Generator().manual_seed(3)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["W1"].std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_heads": 3}, "num_heads=3 must divide dim=16 into heads of even width"),
        ({"num_heads": 16}, "num_heads=16 must divide dim=16 into heads of even width"),
        ({"mini_batch_size": 0}, "mini_batch_size must be above 0, not 0"),
        ({"base_lr": -1.0}, "base_lr must be above 0, not -1.0"),
        ({"rope_theta": 0.0}, "rope_theta must be above 0, not 0.0"),
        ({"kind": "conv"}, "kind must be one of"),
        ({"flavour": "titans"}, "flavour must be one of"),
        ({"checkpoint_mini_batches": -1}, "checkpoint_mini_batches must be 0"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        TTTConfig(**{"dim": 16, "num_heads": 2, **fields})

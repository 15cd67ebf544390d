"""The flavour lact against the authors' own layer, and what only it promises or refuses."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.oracles.slow_lact import slow_lact
from ttt.layers import TTTConfig, TTTLayer

PUBLISHED = Path(__file__).with_name("lact_published.safetensors")
"""What the layer of a1600012888/LaCT at 1f84d47 answers in float64 (its metadata say how)."""
VARIANTS = {"plain": {}, "momentum": {"momentum": True}}


def published(name):
    """A layer with the published one's parameters, its input and output."""
    with safe_open(PUBLISHED, framework="pt") as file:
        start, metadata = f"{name}.", file.metadata()
        theirs = {k.removeprefix(start): file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    x, expected = theirs["input"], theirs["output"]
    config = TTTConfig(
        dim=x.shape[-1],
        num_heads=int(metadata["heads"]),
        flavour="lact",
        mini_batch_size=int(metadata["chunk"]),
        base_lr=float(metadata["base_lr"]),
        rope_theta=None,
        **VARIANTS[name],
    )
    layer = TTTLayer(config).double()
    query, key, value = theirs["to_qkv.weight"].chunk(3)
    ours = {
        "q_proj.weight": query,
        "k_proj.weight": key,
        "v_proj.weight": value,
        "o_proj.weight": theirs["o_proj.weight"],
        "ttt_norm_weight": theirs["o_norm.weight"],
        "learnable_ttt_lr_weight": theirs["lr_proj.weight"].view(config.num_heads, 3, config.dim),
        "learnable_ttt_lr_bias": torch.zeros(config.num_heads, 3),
        **{f"W{n}": theirs[w].mT for n, w in ((1, "w0"), (2, "w1"), (3, "w2"))},
    }
    if config.momentum:
        ours["momentum_weight"] = theirs["momentum_proj.0.weight"].unsqueeze(1)
        ours["momentum_bias"] = theirs["momentum_proj.0.bias"].unsqueeze(1)
    layer.load_state_dict(ours)
    return layer, x, expected


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_equals_the_published_layer(name):
    layer, x, expected = published(name)
    y, _ = layer(x, layer.init_state(len(x)))
    assert (y - expected).abs().max() < 1e-12
    state, pieces = layer.init_state(len(x)), []
    for piece in x.split(1, dim=1):
        y, state = layer(piece, state)
        pieces.append(y)
    assert (torch.cat(pieces, dim=1) - expected).abs().max() < 1e-12
    assert layer.fast_weight_change(state).min() > 0.05, "too little was learnt to see a fault"


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_oracle_is_the_published_layer_too(name):
    layer, x, expected = published(name)
    for row in range(len(x)):
        assert (slow_lact(layer, x[row]) - expected[row]).abs().max() < 1e-12


@torch.no_grad()
def test_equals_a_slow_layer_that_knows_only_the_definition(make_lact_layer):
    layer = make_lact_layer()
    x = torch.randn(2, 43, layer.config.dim, dtype=torch.float64)
    y, _ = layer(x, layer.init_state(2))
    for row in range(2):
        assert (slow_lact(layer, x[row]) - y[row]).abs().max() < 1e-12


@torch.no_grad()
def test_momentum_leaves_a_trace(make_lact_layer):
    layer = make_lact_layer()
    plain = TTTLayer(TTTConfig(**layer.config.to_dict() | {"momentum": False}))
    plain.double().load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(1, 43, layer.config.dim, dtype=torch.float64)
    y, y_plain = (each(x, each.init_state(1))[0] for each in (layer, plain))
    assert torch.equal(y[:, :16], y_plain[:, :16]), "the first step has no velocity to go on with"
    assert ((y - y_plain).abs().max() > 1e-3) == layer.config.momentum


@torch.no_grad()
def test_nothing_of_a_chunk_is_known_before_it_is_whole(make_lact_layer):
    """Keys, values and rates of a chunk move no answer of it, its last token's included."""
    layer, blind = make_lact_layer(), make_lact_layer()
    blind.load_state_dict(layer.state_dict())
    for name in ("k_proj.weight", "v_proj.weight", "learnable_ttt_lr_weight"):
        blind.get_parameter(name).mul_(-1.5)
    x = torch.randn(1, 17, layer.config.dim, dtype=torch.float64)
    y, y_blind = (each(x, each.init_state(1))[0] for each in (layer, blind))
    assert torch.equal(y[:, :8], y_blind[:, :8])
    assert ((y - y_blind)[:, 8:].abs().amax(dim=-1) > 1e-3).all()


@torch.no_grad()
def test_what_leads_to_an_output_keeps_its_norm(make_lact_layer):
    layer = make_lact_layer()
    x = torch.randn(1, 81, layer.config.dim, dtype=torch.float64)
    _, state = layer(x, layer.init_state(1))
    assert layer.fast_weight_change(state).item() > 0.1
    for name, matrix in zip(("W1", "W2", "W3"), state.weights, strict=True):
        before, now = layer.get_parameter(name).norm(dim=-2), matrix.weight[0].norm(dim=-2)
        assert (now - before).abs().max() < 1e-4 * before.max()


def test_the_rates_begin_at_base_lr():
    config = TTTConfig(dim=16, num_heads=2, flavour="lact", rope_theta=None, base_lr=0.001)
    layer = TTTLayer(config).double()
    with torch.no_grad():
        layer.learnable_ttt_lr_weight.zero_()
        _, state = layer(torch.randn(1, 3, 16, dtype=torch.float64), layer.init_state(1))
    assert (state.open[0].rates - 0.001).abs().max() < 1e-12


def test_matrices_are_drawn_to_keep_lengths():
    config = TTTConfig(dim=128, num_heads=2, flavour="lact", rope_theta=None)
    layer = TTTLayer(config, torch.Generator().manual_seed(3))
    for name in ("W1", "W2", "W3"):
        assert layer.get_parameter(name).std().item() == pytest.approx(1 / 8, rel=0.05)
    assert layer.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.q_proj.bias is None
    assert not [name for name in layer.state_dict() if "post_norm" in name]


@pytest.mark.parametrize(
    ("fields", "sentences"),
    [
        ({"flavour": "lact"}, ["rope_theta must be null with flavour lact: positions count"]),
        ({"kind": "linear", "flavour": "lact", "rope_theta": None}, ["kind must be mlp with"]),
        (
            {"flavour": "lact", "mini_batch_size": 2049},
            [
                "rope_theta must be null",
                "mini_batch_size must be at most 2,048 with flavour lact, not 2,049: in a longer "
                "chunk there would be frames that attention has lost and the fast weights have "
                "not seen yet",
            ],
        ),
        ({"momentum": True}, ["momentum belongs to flavour lact: leave it out with ttt_lm"]),
        (
            {"momentum": True, "flavour": "video_dit"},
            ["momentum belongs to flavour lact: leave it out with video_dit"],
        ),
    ],
)
def test_what_does_not_go_with_a_flavour_is_refused(fields, sentences):
    with pytest.raises(ValueError) as error:
        TTTConfig(**{"dim": 16, "num_heads": 2, **fields})
    assert all(sentence in str(error.value) for sentence in sentences)


def test_the_longest_chunk_is_taken_and_stored():
    config = TTTConfig(
        dim=16, num_heads=2, flavour="lact", rope_theta=None, mini_batch_size=2048, momentum=True
    )
    assert TTTConfig(**config.stored()) == config


def test_other_flavours_are_stored_as_before():
    stored = TTTConfig(dim=16, num_heads=2).stored()
    assert list(stored) == [
        "dim", "num_heads", "kind", "flavour", "mini_batch_size", "base_lr", "rope_theta",
        "checkpoint_mini_batches",
    ]  # fmt: skip
    assert TTTConfig(**stored) == TTTConfig(dim=16, num_heads=2)

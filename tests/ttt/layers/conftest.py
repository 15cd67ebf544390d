"""The layers that the conformance tests hold to their promises, and the reference values."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from ttt.layers import InnerControls, TTTConfig, TTTLayer

DIM, HEADS, MINI_BATCH = 32, 4, 8


def build_layer(kind: str, flavour: str, **overrides: object) -> TTTLayer:
    """A small float64 layer whose parameters are all far from 0, so that nothing hides."""
    fields = {"dim": DIM, "num_heads": HEADS, "mini_batch_size": MINI_BATCH, **overrides}
    layer = TTTLayer(TTTConfig(kind=kind, flavour=flavour, **fields)).double()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
            centre = 1.0 if name in ("post_norm.weight", "ttt_norm_weight") else 0.0
            parameter.copy_(centre + 0.2 * noise)
    return layer


def build_lact(**overrides: object) -> TTTLayer:
    """A layer of the flavour lact."""
    return build_layer("mlp", "lact", **{"rope_theta": None, "base_lr": 0.3, **overrides})


AFFINE: dict[str, Callable[..., TTTLayer]] = {
    f"{kind}-{flavour}": partial(build_layer, kind, flavour)
    for kind in ("linear", "mlp")
    for flavour in ("ttt_lm", "video_dit")
}
LACT: dict[str, Callable[..., TTTLayer]] = {
    "lact": build_lact,
    "lact-momentum": partial(build_lact, momentum=True),
}
VARIANTS = AFFINE | LACT
"""Every variant of the layer, by name: add one here and the conformance tests hold it too."""


def controlled(build: Callable[..., TTTLayer], ascent: bool, **overrides: object) -> TTTLayer:
    """A layer of which every control leaves its trace."""
    layer = build(**overrides)
    layer.controls = InnerControls(ascent=ascent, inner_steps=2)
    return layer


CONTROLLED = {
    f"{name}-controlled": partial(controlled, build, not name.endswith("ttt_lm"))
    for name, build in VARIANTS.items()
}
"""Variants whose inner loop is changed on purpose: what is promised of any layer holds for them."""


@pytest.fixture(params=AFFINE)
def make_affine_layer(request: pytest.FixtureRequest) -> Callable[..., TTTLayer]:
    return AFFINE[request.param]


@pytest.fixture(params=LACT)
def make_lact_layer(request: pytest.FixtureRequest) -> Callable[..., TTTLayer]:
    return LACT[request.param]


@pytest.fixture(params=VARIANTS)
def make_layer(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return VARIANTS[request.param]


@pytest.fixture(params=VARIANTS | CONTROLLED)
def make_any_layer(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    return (VARIANTS | CONTROLLED)[request.param]


@pytest.fixture(scope="session")
def golden_ttt() -> Path:
    """Parameters, inputs and outputs of the published layers; tests skip without them."""
    folder = Path(__file__).resolve().parents[4] / "shared" / "golden" / "ttt"
    if not folder.is_dir():
        pytest.skip("the reference tensors (../shared/golden/ttt) are not here")
    return folder

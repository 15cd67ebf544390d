"""The computed reach against the one seen by changing what lies outside a slice."""

import pytest
import torch
from snac.attention import LocalMHA

from ttt.audio import resample
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.receptive_field import Reach


def seen_reach(function, x, edge, samples_per_frame):
    """Samples of function(x) past and before `edge` that the frames on the other side change."""
    with torch.no_grad():
        before = function(x)
        start, end = x.clone(), x.clone()
        start[..., :edge] = torch.randn_like(start[..., :edge])
        end[..., edge:] = torch.randn_like(end[..., edge:])
        changed = [(function(other) != before).flatten().nonzero() for other in (start, end)]
    at = edge * samples_per_frame
    return int(changed[0].max()) + 1 - at, at - int(changed[1].min())


@pytest.mark.parametrize("init", ["interp", "noble", "average", "random"])
def test_reach_holds_and_is_tight(nano_snac, init):
    model = Decoder48k.from_snac(nano_snac.double(), init=init)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter[parameter == 0] = 0.5

    def decode(latents):
        hidden = model.body(latents)
        return model.head(hidden, model.tail(hidden))

    latents = torch.randn(1, nano_snac.latent_dim, 32, dtype=torch.float64)
    with deterministic(model):
        seen = max(seen_reach(decode, latents, 16, 1024))
    assert seen <= model.reach_samples_48k <= 1.15 * seen


def test_reach_of_snacs_own_decoder(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    reach = Reach().through(model.body).through(model.tail)
    # By hand: a kernel of 7 reaches 3 frames; each stride s makes r into r * s + s / 2, its
    # residual units (dilations 1, 3, 9) add 39; the output kernel of 7 adds 3.
    expected = 3
    for stride in (8, 8, 4, 2):
        expected = expected * stride + stride // 2 + 39
    assert reach == Reach(expected + 3, expected + 3) == Reach(4757, 4757)
    # The 2x block adds half a stride, its units and its output kernel: about 45 at 48 kHz.
    assert model.reach_samples_48k == 2 * expected + 1 + 39 + 3


def test_reach_of_the_resampler():
    x = torch.randn(1, 1, 64, dtype=torch.float64)
    reach = Reach(3, 5).through_resample(24_000, 48_000)
    seen = seen_reach(lambda audio: resample(audio, 24_000, 48_000), x, 32, 2)
    # Its outermost taps are there, but too small (1e-33) to be seen.
    assert 0 <= reach.start - (seen[0] + 2 * 3) <= 3
    assert 0 <= reach.end - (seen[1] + 2 * 5) <= 3


def test_unknown_layers_are_refused():
    with pytest.raises(TypeError, match="receptive field of LocalMHA is not known"):
        Reach().through(LocalMHA(dim=64, window_size=32))

"""The decoder against the package it extends, and the promises of its start and its phases."""

import copy

import pytest
import torch
import torchaudio.functional
from snac import SNAC
from torch import nn

from ttt.errors import UserError
from ttt.snac.geometry import CodeGeometry
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes

INITS = ("interp", "noble", "average", "random")


def random_codes(geometry, n_coarse, batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, geometry.codebook_size, (batch, n), generator=generator)
        for n in geometry.lengths(n_coarse)
    ]


def snac_decode(snac_model, codes):
    with torch.no_grad(), deterministic(snac_model):
        return snac_model.decode(codes)


def wake(model):
    """Give the zero gains of the head a value, as training does."""
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if name.endswith("original0"):
                parameter[parameter == 0] = 0.5
    return model


def relative_rms(difference, signal):
    return (difference.square().mean() / signal.square().mean()).sqrt().item()


def test_step_0_is_the_resampled_24_khz_output_bit_for_bit(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    codes = random_codes(model.geometry, 5, batch=3)
    with deterministic(model):
        audio = model.decode(codes)
    expected = torchaudio.functional.resample(snac_decode(nano_snac, codes), 24_000, 48_000)
    assert audio.shape == (3, 1, model.geometry.samples_48k(5))
    assert expected.std() > 0.05
    assert torch.equal(audio, expected)


@pytest.mark.parametrize("init", INITS)
def test_the_24_khz_output_is_snacs_own(nano_snac, init):
    model = Decoder48k.from_snac(nano_snac, init=init)
    codes = random_codes(model.geometry, 4, batch=2)
    with deterministic(model):
        assert torch.equal(model.decode_24k(codes), snac_decode(nano_snac, codes))
        both = model.decode_both(codes)
        assert torch.equal(both[0], model.decode(codes))
        assert torch.equal(both[1], model.decode_24k(codes))
    assert both[0].shape == (2, 1, model.geometry.samples_48k(4))
    assert both[1].shape == (2, 1, model.geometry.samples(4))


def test_noise_is_snacs_own_outside_deterministic(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    codes = random_codes(model.geometry, 3)
    torch.manual_seed(5)
    ours = model.decode_24k(codes)
    torch.manual_seed(5)
    with torch.no_grad():
        theirs = nano_snac.decode(codes)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, model.decode_24k(codes))


def test_deterministic_nests_survives_errors_and_draws_nothing(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    codes = random_codes(model.geometry, 2)
    before = torch.get_rng_state()
    with deterministic(model):
        first = model.decode(codes)
        with pytest.raises(KeyError), deterministic(model):
            raise KeyError
        assert torch.equal(model.decode(codes), first)
        copied = Decoder48k.from_snac(nano_snac)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(model.decode(codes), first)
    assert not torch.equal(copied.decode(codes), first)


def test_a_copy_made_of_a_silenced_codec_has_its_noise(nano_snac):
    codes = random_codes(CodeGeometry.of(nano_snac), 2)
    with deterministic(nano_snac):
        model = Decoder48k.from_snac(nano_snac)
        assert not torch.equal(model.decode(codes), model.decode(codes))


@pytest.mark.parametrize("init", INITS)
def test_a_row_does_not_depend_on_its_batch(nano_snac, init):
    model = wake(Decoder48k.from_snac(nano_snac, init=init))
    codes = random_codes(model.geometry, 4, batch=5)
    with deterministic(model):
        together = model.decode(codes)
        alone = torch.cat([model.decode([scale[i : i + 1] for scale in codes]) for i in range(5)])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("context_coarse, tolerance", [(2, 1e-3), (3, 1e-9)])
def test_core_of_a_window_with_context_equals_the_full_decode(
    nano_snac, init, context_coarse, tolerance
):
    model = wake(Decoder48k.from_snac(nano_snac.double(), init=init))
    geometry = model.geometry
    codes = random_codes(geometry, 12, batch=2)
    start, stop = 4, 8  # the core; the slice has context on both sides
    first = start - context_coarse
    per_coarse = geometry.tokens_per_coarse
    slices = [
        scale[:, first * k : (stop + context_coarse) * k]
        for scale, k in zip(codes, per_coarse, strict=True)
    ]
    with deterministic(model):
        full, window = model.decode(codes), model.decode(slices)
    core = full[..., geometry.samples_48k(start) : geometry.samples_48k(stop)]
    offset = geometry.samples_48k(start - first)
    same = window[..., offset : offset + core.shape[-1]]
    assert relative_rms(same - core, core) < tolerance


def test_a_bare_window_does_differ_near_its_edges(nano_snac):
    model = Decoder48k.from_snac(nano_snac.double())
    geometry = model.geometry
    codes = random_codes(geometry, 8)
    with deterministic(model):
        full = model.decode(codes)
        bare = model.decode([s[:, 2 * k :] for s, k in zip(codes, (1, 2, 4), strict=True)])
    edge = full[..., geometry.samples_48k(2) : geometry.samples_48k(3)]
    assert relative_rms(bare[..., : edge.shape[-1]] - edge, edge) > 1e-3


@pytest.mark.parametrize("init", INITS)
def test_parameter_groups_are_disjoint_and_complete(nano_snac, init):
    model = Decoder48k.from_snac(nano_snac, init=init)
    body = {id(p) for p in model.body_parameters()}
    head = {id(p) for p in model.head_parameters()}
    quantizer = {id(p) for p in model.quantizer.parameters()}
    assert not body & head
    assert body | head == {id(p) for p in model.parameters()} - quantizer
    counts = sum(p.numel() for p in model.body_parameters())
    assert counts == sum(p.numel() for p in nano_snac.decoder.parameters())
    assert not any(p.requires_grad for p in model.quantizer.parameters())


def train_steps(model, codes, parameters, steps):
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    for _ in range(steps):
        audio, _ = model(codes)
        optimizer.zero_grad()
        (audio - 0.1).abs().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("init", INITS)
def test_phase_1_changes_every_head_parameter_and_no_byte_of_the_base(nano_snac, init):
    model = Decoder48k.from_snac(nano_snac, init=init)
    codes = random_codes(model.geometry, 2, batch=2)
    before = copy.deepcopy(model.state_dict())
    model.freeze_body(True)
    train_steps(model, codes, model.head_parameters(), 3)
    after = model.state_dict()
    for name, tensor in before.items():
        changed = not torch.equal(tensor, after[name])
        assert changed == name.startswith("head."), name
        assert after[name].isfinite().all(), name


@pytest.mark.parametrize("init", INITS)
def test_phase_2_changes_the_base_and_nothing_of_the_quantizer(nano_snac, init):
    model = wake(Decoder48k.from_snac(nano_snac, init=init))
    codes = random_codes(model.geometry, 2, batch=2)
    before = copy.deepcopy(model.state_dict())
    model.freeze_body(True)
    model.freeze_body(False)
    train_steps(model, codes, [*model.head_parameters(), *model.body_parameters()], 1)
    for name, tensor in model.state_dict().items():
        # The 24 kHz output layers are trained where the 48 kHz audio passes through them.
        trained = not name.startswith(("quantizer.", *(() if init == "interp" else ("tail.",))))
        assert torch.equal(tensor, before[name]) != trained, name


def test_a_frozen_body_keeps_no_graph(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    codes = random_codes(model.geometry, 2)
    model.freeze_body(True)
    audio, audio_24k = model(codes)
    assert audio.requires_grad
    assert not audio_24k.requires_grad


def test_training_leaves_the_codec_it_came_from_alone(nano_snac):
    before = copy.deepcopy(nano_snac.state_dict())
    model = Decoder48k.from_snac(nano_snac)
    train_steps(model, random_codes(model.geometry, 2), model.body_parameters(), 1)
    assert all(torch.equal(before[name], t) for name, t in nano_snac.state_dict().items())


@pytest.mark.parametrize("init", INITS)
def test_bfloat16_autocast_gives_float32_audio_and_finite_gradients(nano_snac, init):
    model = wake(Decoder48k.from_snac(nano_snac, init=init))
    codes = random_codes(model.geometry, 3)
    with deterministic(model):
        exact, exact_24k = model(codes)
        with torch.autocast("cpu", torch.bfloat16):
            audio, audio_24k = model(codes)
    assert audio.dtype == audio_24k.dtype == torch.float32
    assert 0 < relative_rms(audio - exact, exact) < 0.05
    assert 0 < relative_rms(audio_24k - exact_24k, exact_24k) < 0.05
    audio.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.head_parameters())


def test_same_seed_same_head(nano_snac):
    heads = []
    for torch_seed, seed in ((1, 3), (2, 3), (1, 4)):
        torch.manual_seed(torch_seed)
        state = torch.get_rng_state()
        heads.append(Decoder48k.from_snac(nano_snac, seed=seed).head.state_dict())
        assert torch.equal(torch.get_rng_state(), state)
    name = "output.parametrizations.weight.original1"
    assert torch.equal(heads[0][name], heads[1][name])
    assert not torch.equal(heads[0][name], heads[2][name])


def test_interleaved_codes():
    geometry = CodeGeometry.preset("snac_24khz")
    stored = torch.arange(2 * 3 * 7, dtype=torch.int16).reshape(2, 3, 7)
    codes = interleaved_to_codes(stored, geometry)
    assert [tuple(scale.shape) for scale in codes] == [(2, 3), (2, 6), (2, 12)]
    assert all(scale.dtype == torch.int64 for scale in codes)
    assert codes[0][0].tolist() == [0, 7, 14]
    assert codes[1][0].tolist() == [1, 2, 8, 9, 15, 16]
    assert codes[2][1, :4].tolist() == [24, 25, 26, 27]


def small(**overrides):
    config = {
        "sampling_rate": 24000,
        "encoder_dim": 4,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": 64,
        "decoder_rates": [8, 8, 4, 2],
        "attn_window_size": None,
        "codebook_size": 16,
        "vq_strides": [4, 2, 1],
    }
    return SNAC(**{**config, **overrides}).eval()


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("overrides", [{"depthwise": False}, {"noise": False}])
def test_other_kinds_of_snac(init, overrides):
    snac_model = small(**overrides)
    model = wake(Decoder48k.from_snac(snac_model, init=init))
    codes = random_codes(model.geometry, 2)
    with deterministic(model):
        assert torch.equal(model.decode_24k(codes), snac_decode(snac_model, codes))
        assert model.decode(codes).isfinite().all()


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        ({"attn_window_size": 32}, "uses local attention over 32 frames"),
        ({"sampling_rate": 44100}, "is at 44,100 Hz; the 2x head needs one at 24,000 Hz"),
        ({"sampling_rate": 16000}, "is at 16,000 Hz"),
    ],
)
def test_unfit_codecs_are_refused(overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        Decoder48k.from_snac(small(**overrides))


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda c: c[:2], "codes of 2 scales given; this codec has 3"),
        (lambda c: [c[0], c[1], c[2][:, :-1]], "do not cover the same time"),
        (lambda c: [c[0], c[1], c[2] + 64], "scale 2 holds codes from 64 to .*has 0 to 63"),
        (lambda c: [c[0], c[1] - 65, c[2]], "scale 1 holds codes from -"),
        (lambda c: [scale.float() for scale in c], "must be integers"),
        (lambda c: [scale.numpy() for scale in c], "scale 0 is a ndarray; give tensors"),
        (lambda c: [scale[0] for scale in c], "must be integers \\[batch, tokens\\]"),
        (lambda c: [c[0], c[1], c[2].expand(2, -1)], "unequal batch sizes"),
        (lambda c: [scale[:, :0] for scale in c], "codes are empty"),
    ],
)
def test_wrong_codes_are_refused(nano_snac, spoil, sentence):
    model = Decoder48k.from_snac(nano_snac)
    codes = spoil(random_codes(model.geometry, 3))
    for decode in (model.decode, model.decode_24k, model.decode_both):
        with pytest.raises(ValueError, match=sentence):
            decode(codes)


def test_an_unknown_init_is_refused(nano_snac):
    with pytest.raises(ValueError, match="unknown init 'gate'; choose one of interp, noble"):
        Decoder48k.from_snac(nano_snac, init="gate")


def millions(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


def test_the_published_configuration_at_full_size():
    torch.manual_seed(0)
    snac_model = small(
        encoder_dim=48, decoder_dim=1024, codebook_size=4096, codebook_dim=8
    ).requires_grad_(False)
    assert snac_model.latent_dim == 768
    parts = (snac_model.encoder, snac_model.quantizer, snac_model.decoder)
    assert [millions(part) for part in parts] == [6.69, 0.14, 13.01]
    assert millions(snac_model) == 19.84
    model = Decoder48k.from_snac(snac_model)
    assert model.geometry == CodeGeometry.preset("snac_24khz")
    assert sum(p.numel() for p in model.body_parameters()) == sum(
        p.numel() for p in snac_model.decoder.parameters()
    )
    codes = random_codes(model.geometry, 12)
    with deterministic(model):
        audio, audio_24k = model.decode_both(codes)
    theirs = snac_decode(snac_model, codes)
    assert audio.shape == (1, 1, 49_152)
    assert torch.equal(audio_24k, theirs)
    assert torch.equal(audio, torchaudio.functional.resample(theirs, 24_000, 48_000))

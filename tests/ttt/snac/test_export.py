"""An exported folder decodes the same audio anywhere, and refuses what it cannot vouch for."""

import json
import subprocess
import sys

import pytest
import torch

from ttt.errors import UserError
from ttt.snac import export
from ttt.snac.evaluation.trick_levels import NO_FOLDING, FittedTricks, Folding, Level
from ttt.snac.load import weights_sha256
from ttt.snac.model import Decoder48k, deterministic


def codes_for(model, n_coarse=3):
    size = model.geometry.codebook_size
    return [torch.randint(0, size, (2, n)) for n in model.geometry.lengths(n_coarse)]


def perturbed(snac_model, init):
    model = Decoder48k.from_snac(snac_model, init=init)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("init", ["interp", "noble", "average", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_bit_exact(nano_snac, tmp_path, init, dtype):
    model = perturbed(nano_snac.to(dtype), init)
    codes = codes_for(model)
    model.save_pretrained(tmp_path / "export")
    loaded = Decoder48k.from_pretrained(tmp_path / "export")
    with deterministic(model), deterministic(loaded):
        for ours, theirs in zip(model.decode_both(codes), loaded.decode_both(codes), strict=True):
            assert torch.equal(ours, theirs)
    assert not loaded.training
    assert loaded.init == init
    assert loaded.geometry == model.geometry
    assert loaded.codec_sha256 == weights_sha256(nano_snac)
    assert loaded.reach_samples_48k == model.reach_samples_48k
    loaded.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "README.md"):
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (tmp_path / "export" / name).read_bytes()


def test_the_folder_holds_what_it_says(nano_snac, tmp_path):
    model = Decoder48k.from_snac(nano_snac)
    model.save_pretrained(tmp_path, card="# Numbers\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert (tmp_path / "README.md").read_text() == "# Numbers\n"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["snac"]["noise"] is True
    assert config["snac"]["depthwise"] is True
    # What config.json says of SNAC builds the codec the decoder came from.
    rebuilt = type(nano_snac)(**config["snac"])
    rebuilt.load_state_dict(nano_snac.state_dict())
    model.save_pretrained(tmp_path)
    assert "from_pretrained" in (tmp_path / "README.md").read_text()


def test_an_export_may_carry_the_tricks_levels_and_old_ones_do_not(nano_snac, tmp_path):
    model = Decoder48k.from_snac(nano_snac)
    model.save_pretrained(tmp_path / "old")
    assert export.read_config(tmp_path / "old").tricks is None
    hiss = Level(NO_FOLDING, -80.0, 1.5, None, at_end=False)
    tricks = FittedTricks(hiss, Level(Folding(-20.0, falls=True), -85.0, 1.6, 0.5, at_end=True), 12)
    model.save_pretrained(tmp_path / "new", tricks=tricks)
    assert export.read_config(tmp_path / "new").tricks == tricks
    Decoder48k.from_pretrained(tmp_path / "new")


def test_two_lines_in_a_fresh_process(nano_snac, tmp_path):
    model = perturbed(nano_snac, "interp")
    model.save_pretrained(tmp_path / "export")
    codes = codes_for(model)
    torch.save(codes, tmp_path / "codes.pt")
    script = f"""
import torch
torch.set_num_threads(1)
codes = torch.load({str(tmp_path / "codes.pt")!r})
torch.manual_seed(3)
from ttt.snac.model import Decoder48k
audio = Decoder48k.from_pretrained({str(tmp_path / "export")!r}).decode(codes)
torch.save(audio, {str(tmp_path / "audio.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    torch.manual_seed(3)
    assert torch.equal(torch.load(tmp_path / "audio.pt"), model.decode(codes))


def edit(**changes):
    def apply(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def edit_snac(**changes):
    def apply(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["snac"] |= changes
        path.write_text(json.dumps(config))

    return apply


@pytest.mark.parametrize(
    "name, told",
    [
        ("{}/config.json", "a file"),
        ("{}/absent", "no such folder"),
        ("voice", "no such folder"),
        ("https://huggingface.co/me/voice", "no such folder"),
    ],
)
def test_what_is_no_folder_is_told_as_it_was_written(nano_snac, tmp_path, name, told):
    Decoder48k.from_snac(nano_snac).save_pretrained(tmp_path)
    name = name.format(tmp_path)
    with pytest.raises(UserError) as refusal:
        Decoder48k.from_pretrained(name)
    assert str(refusal.value) == (
        f"{name}: {told}; give a folder with an export (config.json, model.safetensors), or "
        "USER/NAME of a decoder on the hub"
    )


def drop(name):
    return lambda folder: (folder / name).unlink()


def truncate(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:1000])


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (drop("config.json"), "config.json: not found; give a folder that save_pretrained"),
        (drop("model.safetensors"), "model.safetensors: not found; the export is incomplete"),
        (truncate("model.safetensors"), "model.safetensors: cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
        (edit(format="vocos"), "config.json: not an exported 48 kHz decoder"),
        (edit(format_version=2), "config.json: format version 2, this program reads 1"),
        (edit(init="gate"), "config.json: unknown init 'gate'"),
        (edit(snac={}), "config.json: damaged, a field is missing or wrong"),
        (edit(tricks={"hiss": 1}), "config.json: damaged, a field is missing or wrong"),
        (edit(geometry={}), "config.json: damaged, a field is missing or wrong"),
        (edit_snac(encoder_rates=[3, 3, 7, 7]), "is not that of its snac arguments"),
        (edit_snac(decoder_dim=128), "model.safetensors: does not fit config.json .*size mis"),
        (edit(init="noble"), "model.safetensors: does not fit config.json .*Missing key"),
    ],
)
def test_what_cannot_be_trusted_is_refused_in_one_sentence(nano_snac, tmp_path, spoil, sentence):
    Decoder48k.from_snac(nano_snac).save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=sentence) as refusal:
        Decoder48k.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)

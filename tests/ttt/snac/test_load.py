"""Codecs from folders of every shape, and the sentence for each thing that can be wrong."""

import json

import pytest
import safetensors.torch
import torch

from tests.conftest import NANO_CONFIG
from ttt.errors import UserError
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import load_codec, weights_sha256


@pytest.fixture
def folder(tmp_path, nano_snac):
    """A codec folder in the hub's layout."""
    folder = tmp_path / "my_codec"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(NANO_CONFIG))
    torch.save(nano_snac.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_a_folder_gives_the_codec_that_was_saved(folder, nano_snac):
    codec = load_codec(folder)
    assert codec.name == "my_codec"
    assert codec.geometry == CodeGeometry.of(nano_snac)
    assert codec.weights_sha256 == weights_sha256(nano_snac)
    assert not codec.model.training
    assert not any(p.requires_grad for p in codec.model.parameters())
    for name, tensor in nano_snac.state_dict().items():
        assert torch.equal(codec.model.state_dict()[name], tensor), name


def test_the_hash_does_not_depend_on_the_file(folder, nano_snac):
    expected = load_codec(folder).weights_sha256
    state = nano_snac.state_dict()
    torch.save(dict(reversed(state.items())), folder / "pytorch_model.bin")
    assert load_codec(folder).weights_sha256 == expected
    old_names = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in state.items()
    }
    assert old_names.keys() != state.keys()
    torch.save(old_names, folder / "pytorch_model.bin")
    assert load_codec(folder).weights_sha256 == expected
    (folder / "pytorch_model.bin").unlink()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    assert load_codec(folder).weights_sha256 == expected


def test_the_hash_sees_one_changed_bit(nano_snac):
    before = weights_sha256(nano_snac)
    with torch.no_grad():
        bits = nano_snac.quantizer.quantizers[0].codebook.weight.view(torch.int32)
        bits[0, 0] ^= 1
    assert weights_sha256(nano_snac) != before


def test_the_tiny_codec_ships_with_the_package():
    codec = load_codec("tiny")
    assert codec.name == "tiny"
    published = CodeGeometry.preset("snac_24khz")
    assert (codec.geometry.hop_samples, codec.geometry.strides) == (512, published.strides)
    with torch.no_grad():
        codes = codec.model.encode(torch.zeros(1, 1, 4096))
    assert [scale.shape[1] for scale in codes] == [2, 4, 8]


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def save(weights):
    return lambda folder: torch.save(weights, folder / "pytorch_model.bin")


def reconfigure(**changes):
    text = json.dumps({**NANO_CONFIG, **changes}).encode()
    return write("config.json", text)


class NotATensor:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (remove("config.json"), "my_codec/config.json: not found"),
        (remove("pytorch_model.bin"), "my_codec: no weights; put model.safetensors or pytorch"),
        (write("config.json", b"{"), "config.json: not a SNAC configuration"),
        (write("config.json", b"[]"), "config.json: not a SNAC configuration"),
        (reconfigure(hop=512), "config.json: not a SNAC configuration .*hop"),
        (reconfigure(decoder_dim=128), "pytorch_model.bin: does not fit config.json.*size mis"),
        (reconfigure(vq_strides=[4, 2]), "pytorch_model.bin: does not fit.*Unexpected key"),
        (write("pytorch_model.bin", b"not weights"), "pytorch_model.bin: cannot be read"),
        (write("pytorch_model.bin", b""), "pytorch_model.bin: cannot be read"),
        (save([1, 2]), "pytorch_model.bin: holds a list, not a dict of weights by name"),
        (save({}), "pytorch_model.bin: does not fit.*Missing key"),
        (write("model.safetensors", b"not weights"), "model.safetensors: cannot be read"),
    ],
)
def test_damaged_folders_are_refused_in_one_sentence(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as refusal:
        load_codec(folder)
    assert "\n" not in str(refusal.value)


def test_weights_that_would_run_code_are_refused(folder, capsys):
    torch.save({"codebook": NotATensor()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_codec(folder)
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["/no/such/folder", "./codec", "codec", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(UserError, match=r"no such codec folder; give a folder with config.json"):
        load_codec(name)


def test_a_hub_that_cannot_be_reached():  # conftest sets HF_HUB_OFFLINE
    with pytest.raises(UserError, match="nor fetched from the Hugging Face hub") as refusal:
        load_codec("nobody/no_codec_of_this_name")
    message = str(refusal.value)
    assert "hf download nobody/no_codec_of_this_name --local-dir no_codec_of_this_name" in message
    assert "\n" not in message

"""TTT layers saved beside, and loaded into, the base model they belong to."""

import json

import pytest
import torch

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, load_ttt, save_ttt, tiny_lm
from ttt.moshi.insert import temporal_layers, ttt_layers
from ttt.moshi.ttt_files import base_fingerprint, describe_ttt, outline_ttt


def base(seed=3, **overrides):
    return tiny_lm(seed=seed, dim=64, depformer_dim=32, **overrides)


@pytest.fixture
def trained():
    lm = base()
    insert_ttt(lm, [0, 2], TTTConfig(dim=64, num_heads=4, kind="linear"), attention_context=9)
    with torch.no_grad():
        for each in ttt_layers(lm).values():
            each.alpha.normal_()
    return lm


@torch.no_grad()
def test_a_loaded_model_is_the_saved_one(trained, tmp_path):
    save_ttt(trained, tmp_path / "ttt")
    lm = base()
    assert load_ttt(lm, tmp_path / "ttt") == 2
    for key, tensor in trained.state_dict().items():
        assert torch.equal(lm.state_dict()[key], tensor), key
    assert [layer.self_attn.context for layer in temporal_layers(lm)] == [9, 32, 9, 32]
    tokens = torch.randint(40, (1, 17, 30))
    assert torch.equal(lm(tokens).text_logits, trained(tokens).text_logits)


@torch.no_grad()
def test_lact_layers_are_loaded_as_saved(tmp_path):
    lm, again = base(), base()
    config = TTTConfig(
        dim=64, num_heads=4, flavour="lact", mini_batch_size=8, rope_theta=None, momentum=True
    )
    insert_ttt(lm, [0, 2], config, generator=torch.Generator().manual_seed(1))
    save_ttt(lm, tmp_path)
    assert json.loads((tmp_path / "ttt.json").read_text())["config"]["momentum"]
    assert describe_ttt(tmp_path)["flavour"] == "lact"
    load_ttt(again, tmp_path)
    assert ttt_layers(again)[2].layer.config == config
    tokens = torch.randint(40, (1, 17, 30))
    assert torch.equal(lm(tokens).text_logits, again(tokens).text_logits)


def test_only_the_ttt_tensors_are_kept(trained, tmp_path):
    save_ttt(trained, tmp_path)
    added = sum(p.numel() for each in ttt_layers(trained).values() for p in each.parameters())
    size = (tmp_path / "ttt.safetensors").stat().st_size
    assert 4 * added <= size < 4 * added + 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ttt.json", "ttt.safetensors"]


def test_saving_again_gives_the_same_bytes(trained, tmp_path):
    for folder in ("a", "b"):
        save_ttt(trained, tmp_path / folder)
    for name in ("ttt.json", "ttt.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_float32_checkpoint_fits_its_bfloat16_model(trained, tmp_path):
    save_ttt(trained, tmp_path)
    lm = base(dtype=torch.bfloat16)
    assert load_ttt(lm, tmp_path) == 2
    loaded, saved = ttt_layers(lm)[0].layer, ttt_layers(trained)[0].layer
    assert loaded.q_proj.weight.dtype == torch.bfloat16
    # What the small model starts from comes through unrounded.
    assert loaded.W1.dtype == torch.float32
    assert torch.equal(loaded.W1, saved.W1)


def test_the_fingerprint_is_of_the_base_alone(trained):
    assert base_fingerprint(trained) == base_fingerprint(base())
    assert base_fingerprint(base(seed=4)) != base_fingerprint(base())
    changed = base()
    with torch.no_grad():
        changed.out_norm.alpha[0, 0, 5] += 0.1
    assert base_fingerprint(changed) != base_fingerprint(base())


def test_another_base_model_is_refused(trained, tmp_path):
    save_ttt(trained, tmp_path)
    lm = base(seed=4)
    with pytest.raises(UserError, match="belong to the base model"):
        load_ttt(lm, tmp_path)
    assert not ttt_layers(lm)


def test_damaged_and_missing_files_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r"not a folder of TTT layers, ttt\.json or"):
        load_ttt(base(), tmp_path)
    save_ttt(trained, tmp_path)
    description = json.loads((tmp_path / "ttt.json").read_text())

    def describe(**changes):
        (tmp_path / "ttt.json").write_text(json.dumps({**description, **changes}))

    lm = base()
    describe(layers=[0, 1])
    with pytest.raises(UserError, match=r"does not fit ttt\.json in 28 tensors"):
        load_ttt(lm, tmp_path)
    describe(format=9)
    with pytest.raises(UserError, match="format 9 is not 1"):
        load_ttt(lm, tmp_path)
    describe(config={"dim": 64, "num_heads": 4, "depth": 3})
    with pytest.raises(UserError, match=r"cannot be read .*depth"):
        load_ttt(lm, tmp_path)
    describe()
    whole = (tmp_path / "ttt.safetensors").read_bytes()
    (tmp_path / "ttt.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        load_ttt(lm, tmp_path)
    assert not ttt_layers(lm)


def test_a_base_model_has_nothing_to_save(tmp_path):
    with pytest.raises(UserError, match="no TTT layers to save"):
        save_ttt(base(), tmp_path)


def test_outline_and_description_say_what_is_saved(trained, tmp_path):
    save_ttt(trained, tmp_path / "ttt")
    with torch.device("meta"):
        lm = base(device="meta")
    assert outline_ttt(lm, tmp_path / "ttt") == 2
    assert all(tensor.device.type == "meta" for tensor in lm.state_dict().values())
    assert lm.state_dict().keys() == trained.state_dict().keys()
    described = describe_ttt(tmp_path / "ttt")
    assert described["layers"] == [0, 2]
    assert described["kind"] == "linear"
    assert described["attention_context"] == 9
    with torch.no_grad():
        next(iter(ttt_layers(trained).values())).alpha.add_(1)
    save_ttt(trained, tmp_path / "other")
    assert describe_ttt(tmp_path / "other")["sha256"] != described["sha256"]


def test_nothing_is_drawn_for_what_is_loaded_or_outlined(trained, tmp_path):
    """Drawn first and replaced after, the layers of a 7B model would take 8 s of a load."""
    save_ttt(trained, tmp_path)
    lm, outline = base(), base(device="meta")
    before = torch.get_rng_state()
    load_ttt(lm, tmp_path)
    outline_ttt(outline, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)

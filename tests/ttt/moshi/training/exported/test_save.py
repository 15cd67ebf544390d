"""What training leaves, read by the evaluation, by the published package, and by training."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
import torch
from moshi.models import loaders
from moshi.modules.lora import LoRALinear as PublishedLoRALinear
from moshi.modules.lora import replace_all_linear_with_lora
from safetensors.torch import load_file, save_file

from tests.ttt.moshi.training.runs import CONFIG, in_training, small_base
from ttt.errors import UserError
from ttt.moshi import evaluate_codes, load_ttt
from ttt.moshi.insert import temporal_layers, ttt_layers
from ttt.moshi.lora import fuse_lora, read_lora
from ttt.moshi.tiny import tiny_arguments
from ttt.moshi.training import (
    MoshiTrainingConfig,
    TrainedFacts,
    base_form,
    card,
    describe_match,
    exported_form,
    freeze_base,
    insert_trained,
    lora_parameters,
    save_trained,
    start_trained,
)
from ttt.moshi.training.config import LoRAConfig, TTTLayersConfig
from ttt.moshi.training.lora import lora_linears
from ttt.moshi.ttt_files import base_fingerprint

ARGUMENTS = tiny_arguments(
    12, dim=32, num_layers=2, num_heads=4, card=64, text_card=48,
    depformer_dim=16, depformer_layers=2, depformer_heads=4,
)  # fmt: skip
TTT_ONLY = dataclasses.replace(CONFIG, lora=None)
LORA_ONLY = dataclasses.replace(CONFIG, ttt=None)
SHORT = dataclasses.replace(CONFIG, ttt=dataclasses.replace(CONFIG.ttt, attention_context=5))
CONFIGS = {"ttt": TTT_ONLY, "lora": LORA_ONLY, "both": CONFIG, "short": SHORT}
FILES = {
    "ttt": ["README.md", "ttt.json", "ttt.safetensors"],
    "lora": ["README.md", "config.json", "lora.safetensors"],
}
FILES["both"] = FILES["short"] = sorted({*FILES["ttt"], *FILES["lora"]})


def save(lm, folder: Path) -> Path:
    with base_form(lm):
        fingerprint = base_fingerprint(lm)
    save_trained(lm, folder, ARGUMENTS, base_fingerprint=fingerprint, card="a card")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("what", FILES)
def test_a_folder_holds_what_was_trained_and_nothing_of_before(tmp_path, what):
    for before in FILES:
        save(in_training(CONFIGS[before]), tmp_path)
        save(in_training(CONFIGS[what]), tmp_path)
        assert names(tmp_path) == FILES[what]
    assert (tmp_path / "README.md").read_text() == "a card"
    if "ttt.json" in FILES[what]:
        told = json.loads((tmp_path / "ttt.json").read_text())
        assert told["base_fingerprint"] == base_fingerprint(small_base())


def test_a_base_that_training_has_changed_is_a_bug(tmp_path):
    lm = in_training(CONFIG)
    before = base_fingerprint(lm)
    with torch.no_grad():
        temporal_layers(lm)[0].self_attn.in_projs[0].weight.mul_(1.5)
    with pytest.raises(RuntimeError, match="training has changed it, which is a bug"):
        save_trained(lm, tmp_path, ARGUMENTS, base_fingerprint=before, card="")
    assert not names(tmp_path)
    lm = small_base()
    with pytest.raises(UserError, match="this model has no LoRA to save"):
        save_trained(lm, tmp_path, {}, base_fingerprint=base_fingerprint(lm), card="")


@pytest.mark.parametrize("fuse", (True, False))
@pytest.mark.parametrize("what", ("lora", "both"))
def test_the_published_loader_takes_its_lora(tmp_path, what, fuse):
    lm = in_training(CONFIGS[what])
    save(lm, tmp_path)
    save_file(small_base().state_dict(), tmp_path / "base.safetensors")
    theirs = loaders.get_moshi_lm(
        tmp_path / "base.safetensors",
        json.loads((tmp_path / "config.json").read_text()),
        "cpu",
        torch.float32,
        tmp_path / "lora.safetensors",
        fuse,
    )
    assert any(isinstance(m, PublishedLoRALinear) for m in theirs.modules()) != fuse
    ours, tokens = small_base(), torch.randint(40, (2, 17, 30))
    fuse_lora(ours, read_lora(tmp_path))
    with torch.no_grad():
        hidden = [model.forward_text(tokens)[0] for model in (ours, theirs)]
    assert (hidden[0] - hidden[1]).abs().max() < (1e-6 if fuse else 1e-4)
    if fuse:
        for name, tensor in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], tensor), name


# -- a start from it -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("what", CONFIGS)
def test_a_start_has_the_losses_of_the_export(tmp_path, speech, what, dtype):
    trained = in_training(CONFIGS[what], dtype)
    save(trained, tmp_path)
    codes, heard = speech(batch=1), small_base(dtype=dtype)
    if ttt_layers(trained):
        load_ttt(heard, tmp_path)
    else:
        fuse_lora(heard, read_lora(tmp_path))
    lm = small_base(dtype=dtype)
    start_trained(lm, CONFIGS[what], tmp_path)
    freeze_base(lm)
    state = trained.state_dict()
    assert lm.state_dict().keys() == state.keys()
    for name, tensor in lm.state_dict().items():  # And trains on from the very same digits.
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name]), name
    with exported_form(lm):
        assert torch.equal(
            evaluate_codes(lm, codes, chunk=7).nll, evaluate_codes(heard, codes, chunk=7).nll
        )


@pytest.mark.parametrize("what", ("ttt", "lora"))
def test_what_an_export_lacks_is_drawn(tmp_path, what):
    trained, drawn, lm = in_training(CONFIGS[what]), small_base(), small_base()
    save(trained, tmp_path)
    insert_trained(drawn, CONFIG)
    start_trained(lm, CONFIG, tmp_path)
    for name, tensor in lm.state_dict().items():
        source = trained if name in trained.state_dict() else drawn
        assert torch.equal(tensor, source.state_dict()[name]), name


def replaced(part: str, **fields) -> MoshiTrainingConfig:
    return dataclasses.replace(
        CONFIG, **{part: dataclasses.replace(getattr(CONFIG, part), **fields)}
    )


MISFITS = (
    (replaced("ttt", layers=(0,)), r"ttt.layers is \[1\] there, and \[0\] in this configuration"),
    (replaced("ttt", layers=(0, 1)), r"ttt.layers is \[1\] there, and \[0, 1\] in this"),
    (replaced("ttt", kind="mlp"), "ttt.kind is linear there, and mlp in this configuration: set"),
    (replaced("ttt", flavour="video_dit"), "ttt.flavour is ttt_lm there, and video_dit in this"),
    (replaced("ttt", num_heads=2), "ttt.num_heads is 4 there, and 2 in this configuration"),
    (replaced("ttt", mini_batch_size=4), "ttt.mini_batch_size is 8 there, and 4 in this"),
    (replaced("ttt", base_lr=0.5), "ttt.base_lr is 1.0 there, and 0.5 in this configuration"),
    (replaced("ttt", rope_theta=None), r"ttt.rope_theta is 10000.0 there, and null in this"),
    (replaced("ttt", attention_context=3), "ttt.attention_context is 12 there, and 3 in this"),
    (replaced("lora", rank=3), "lora.rank is 2 there, and 3 in this configuration: set lora.rank"),
    (replaced("lora", scaling=1.0), "lora.scaling is 2.0 there, and 1.0 in this configuration"),
    (replaced("lora", targets=("gating",)), r"lora.targets is \['gating', 'in_projs', 'out_projs'"),
    (TTT_ONLY, "lora is rank 2 in in_projs, out_projs, gating there, and null in this"),
    (LORA_ONLY, r"ttt is linear in layers \[1\] there, and null in this configuration: set ttt to"),
)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return save(in_training(CONFIG), tmp_path_factory.mktemp("export"))


@pytest.mark.parametrize("config, sentence", MISFITS)
def test_an_export_of_another_configuration_is_refused_by_its_key(export, config, sentence):
    lm = small_base()
    with pytest.raises(UserError, match=sentence):
        start_trained(lm, config, export)
    assert lm.state_dict().keys() == small_base().state_dict().keys()


def test_the_default_context_is_the_models_own(export):
    lm = small_base()
    start_trained(lm, replaced("ttt", attention_context=12), export)
    stored = load_file(export / "ttt.safetensors")
    assert all(torch.equal(lm.state_dict()[name], tensor) for name, tensor in stored.items())


def test_what_is_no_export_of_this_base_is_refused(export, tmp_path):
    other = small_base(seed=4)
    layers = save(in_training(TTT_ONLY), tmp_path / "layers")
    with pytest.raises(UserError, match="these TTT layers belong to the base model"):
        start_trained(other, CONFIG, layers)
    assert other.state_dict().keys() == small_base().state_dict().keys()
    alone = save(in_training(LORA_ONLY), tmp_path / "alone")
    assert read_lora(alone).base == base_fingerprint(small_base())
    with pytest.raises(UserError, match="this LoRA belongs to the base model"):
        start_trained(other, LORA_ONLY, alone)
    with pytest.raises(UserError, match=r"holds neither ttt.json nor lora.safetensors; name the"):
        start_trained(small_base(), CONFIG, tmp_path)
    with_lora = small_base()
    replace_all_linear_with_lora(with_lora, 2, 1.0)
    with pytest.raises(UserError, match=r"the base model has a LoRA of its own in .* name a base"):
        insert_trained(with_lora, TTT_ONLY)
    for name in ("lora.safetensors", "config.json"):
        (tmp_path / name).write_bytes((export / name).read_bytes())
    tensors = load_file(tmp_path / "lora.safetensors")
    tensors["transformer.layers.1.ttt.alpha"] = torch.zeros(32)
    save_file(tensors, tmp_path / "lora.safetensors")
    lm = small_base()
    with pytest.raises(UserError, match=r"holds TTT layers, too \(1 tensors, the first tr"):
        start_trained(lm, CONFIG, tmp_path)
    assert not lora_linears(lm)


# -- the control and the card ----------------------------------------------------------------------


def test_the_control_says_how_near_it_comes():
    match = TTTLayersConfig(layers=(0, 1), kind="mlp")
    lora = LoRAConfig(rank="match", match=match)
    with torch.device("meta"):
        outline = small_base(device="meta")
    for lm in (small_base(), outline):
        sentence = describe_match(lm, lora)
        config = dataclasses.replace(CONFIG, ttt=match, lora=None)
        trained = freeze_base(in_training(config))
        wanted = sum(p.numel() for named in trained.values() for p in named.values())
        counts = {rank: lora_parameters(lm, rank) for rank in range(1, 50)}
        rank = min(counts, key=lambda each: abs(counts[each] - wanted))
        percent = 100 * (counts[rank] - wanted) / wanted
        assert sentence is not None
        assert sentence.startswith(
            f"lora.rank: match takes rank {rank}: {counts[rank]:,} parameters, and TTT-mlp in "
            f"layers 0, 1 has {wanted:,} ({percent:+.2f} %)"
        )
        apart = "more than 1 % apart, so it is no matched control; fewer lora.targets"
        assert (apart in sentence) == (abs(percent) > 1)
    assert describe_match(small_base(), LoRAConfig(rank=4)) is None


@pytest.mark.parametrize(
    "targets, layers, apart",
    ((("in_projs", "gating"), (0,), True), (("out_projs",), (0, 1), False)),
)
def test_a_control_that_is_no_match_is_called_one(targets, layers, apart):
    lora = LoRAConfig(rank="match", match=TTTLayersConfig(layers=layers), targets=targets)
    sentence = describe_match(small_base(), lora)
    assert sentence is not None
    assert ("no matched control" in sentence) == apart, sentence


@pytest.mark.parametrize("what", ("ttt", "lora", "both"))
def test_the_card_says_what_was_trained_and_how_to_hear_it(what):
    losses = {"mean": 2.0, "in_window": 2.25, "beyond_window": 1.5}
    facts = TrainedFacts(
        base="kyutai/moshiko", base_fingerprint="abc", mimi=None, dtype="bfloat16", lm_kwargs={},
        start=None, start_sha256={}, config=CONFIGS[what],
        lora_rank=7, step=3, data="cache/: 12 chapters", held_out="2 speakers", window=3000,
        rows={"trained": losses, "base": dict.fromkeys(losses, 2.5)}, origin={"commit": "f00"},
    )  # fmt: skip
    text = card(facts)
    assert ("TTT-linear (ttt_lm) after the attention of layer 1, " in text) == (what != "lora")
    assert ("LoRA of rank 7, scaling 2, on in_projs, out_projs, gating" in text) == (what != "ttt")
    key = "lora" if what == "lora" else "ttt"
    assert f"model.weights=kyutai/moshiko model.dtype=bfloat16 model.{key}=THIS_FOLDER" in text
    for words in (
        "| beyond the window | 2.5000 | 1.5000 | -1.0000 |",
        "fingerprint `abc`",
        "after step 3 of 5 (3 with windows of 10; 2 with windows of 20 frames)",
        "trained on: cache/: 12 chapters",
        "the 3,000 frames that attention reaches back",
        "- commit: f00",
    ):
        assert words in text
    assert "semantic codebook |" not in text
    assert "had no validation" in card(dataclasses.replace(facts, rows={}))
    assert "started from" not in text
    begun = dataclasses.replace(facts, start="one/export", start_sha256={"ttt.safetensors": "abc"})
    assert "- started from: one/export (sha256: ttt.safetensors abc); the steps below" in card(
        begun
    )
    assert "(fingerprint `abc`, bfloat16), whose" in text
    changed = {"context": 500, "norm": "layer norm"}
    other = card(dataclasses.replace(facts, base="my models/a", mimi="tiny", lm_kwargs=changed))
    assert f"bfloat16, with {json.dumps(changed)}), whose" in other
    commands = [shlex.split(line) for line in other.splitlines() if "THIS_FOLDER" in line]
    assert len(commands) == 2
    for words in commands:
        assert words[:5] == [
            "model.weights=my models/a",
            "model.mimi=tiny",
            "model.dtype=bfloat16",
            f"model.lm_kwargs={json.dumps(changed)}",
            f"model.{key}=THIS_FOLDER",
        ]

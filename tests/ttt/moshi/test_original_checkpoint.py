"""The original's checkpoints as layers of ours: what is mapped, dropped, decided and refused."""

import json
from pathlib import Path

import pytest
import torch

from tests.ttt.moshi.original_files import (
    DIM,
    HEADS,
    SHAPE,
    TTT_CONFIG,
    lora_tensors,
    renamed,
    ttt_tensors,
    write_checkpoint,
)
from ttt.errors import UserError
from ttt.moshi import import_original, load_ttt, tiny_lm
from ttt.moshi.insert import ttt_layers
from ttt.moshi.lora import fuse_lora
from ttt.moshi.original_report import FAULTS
from ttt.moshi.ttt_files import base_fingerprint, write_ttt

OURS = {
    "wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj",
    "W1": "W1", "b1": "b1", "W2": "W2", "b2": "b2",
    "learnable_ttt_lr_weight": "learnable_ttt_lr_weight",
    "learnable_ttt_lr_bias": "learnable_ttt_lr_bias",
    "ttt_norm_weight": "ttt_norm_weight", "ttt_norm_bias": "ttt_norm_bias",
    "post_norm": "post_norm",
}  # fmt: skip


def written(folder, tensors, report):
    write_ttt(
        folder, tensors, report.layers, report.config,
        attention_context=report.attention_context, fingerprint=report.fingerprint,
        beside=report.lora and (report.lora, report.lora_config),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_every_tensor_of_the_layers_is_mapped(tmp_path: Path, kind: str) -> None:
    theirs = ttt_tensors(kind, 0) | ttt_tensors(kind, 1)
    tensors, report = import_original(write_checkpoint(tmp_path / "in", theirs))
    assert report.layers == (0, 1)
    left = dict(tensors)
    for key, tensor in theirs.items():
        layer, name = key.split(".seq_modeling_block.")
        if name.startswith("ttt_layer"):
            stem, _, part = name.removeprefix("ttt_layer.ttt.").partition(".")
            ours = f"{layer}.ttt.layer.{OURS[stem]}{'.' * bool(part)}{part}"
            assert torch.equal(left.pop(ours), tensor), key
        elif name.startswith("forward"):
            assert torch.equal(left.pop(f"{layer}.ttt.alpha"), tensor.clamp(-3, 3))
    assert not left
    config = report.config
    assert (config.kind, config.flavour, config.rope_theta) == (kind, "video_dit", None)
    assert (config.mini_batch_size, config.base_lr, config.num_heads) == (4, 0.5, HEADS)
    assert (report.attention_context, report.lora, report.fingerprint) == (None, None, None)
    written(tmp_path / "out", tensors, report)
    lm = tiny_lm(**SHAPE)
    assert load_ttt(lm, tmp_path / "out") == 2
    assert torch.equal(ttt_layers(lm)[1].layer.W1, tensors["transformer.layers.1.ttt.layer.W1"])
    assert lm(torch.randint(40, (1, 17, 9))).text_logits.isfinite().all()


def test_the_report_says_what_became_of_what_and_why_numbers_differ(tmp_path: Path) -> None:
    _, report = import_original(write_checkpoint(tmp_path, ttt_tensors()))
    text = "\n".join(report.lines())
    assert f"{tmp_path}/consolidated/lora.safetensors: TTT-mlp in layers 1" in text
    assert "ttt_layer.ttt.wq.weight" in text
    assert "-> layer.q_proj.weight" in text
    assert "-> alpha" in text
    assert "dropped: the original never called it" in text
    for fault in FAULTS:
        assert fault in text
    for decided in (
        "mini_batch_size=4, of training_config.json", "no rotary embedding: use_rope was off",
        "no learnable_token_idx", "post_norm is as it was drawn", "alpha cut off at 3",
        "ttt_layer_context=50 was asked for", "kyutai/moshiko-pytorch-bf16",
    ):  # fmt: skip
        assert decided in text


def test_what_the_command_says_goes_before_what_the_training_said(tmp_path: Path) -> None:
    ttt = {**TTT_CONFIG, "use_rope": True, "rope_theta": 500.0, "normalize_ttt_output": True}
    folder = write_checkpoint(tmp_path, ttt_tensors(), ttt=ttt)
    options = {"mini_batch_size": 8, "base_lr": 0.25, "attention_context": 9}
    _, report = import_original(folder / "consolidated", **options)
    config = report.config
    assert (config.mini_batch_size, config.base_lr, config.rope_theta) == (8, 0.25, 500.0)
    assert report.attention_context == 9
    decided = "; ".join(report.decisions)
    for text in ("mini_batch_size=8, of the command", "scaled its angles", "normalize_ttt_output",
                 "attention_context=9, of the command"):  # fmt: skip
        assert text in decided
    (folder / "consolidated" / "training_config.json").unlink()
    with pytest.raises(UserError, match=r"says ttt.mini_batch_size, .*: set mini_batch_size"):
        import_original(folder)
    _, report = import_original(folder, mini_batch_size=4, base_lr=1.0)
    assert report.base is None


def test_a_lora_of_the_same_file_comes_beside_the_layers(tmp_path: Path) -> None:
    pairs = lora_tensors()
    folder = write_checkpoint(tmp_path / "in", ttt_tensors() | renamed(pairs))
    tensors, report = import_original(folder)
    assert report.lora is not None
    assert report.lora.tensors.keys() == pairs.keys()
    text = "\n".join(report.lines())
    assert "dropped: there twice, with the same values" in text
    written(tmp_path / "out", tensors, report)
    lm, fused = tiny_lm(**SHAPE), tiny_lm(**SHAPE)
    load_ttt(lm, tmp_path / "out")
    fuse_lora(fused, report.lora)
    for name, tensor in fused.state_dict().items():
        assert torch.equal(lm.state_dict()[name], tensor), name


def test_a_whole_model_in_the_file_names_its_base(tmp_path: Path) -> None:
    lm = tiny_lm(seed=5, **SHAPE)
    everything = ttt_tensors() | renamed(lm.state_dict())
    folder = write_checkpoint(tmp_path / "in", everything, name="consolidated")
    tensors, report = import_original(folder)
    assert report.fingerprint == base_fingerprint(lm)
    assert report.lora is None
    written(tmp_path / "out", tensors, report)
    assert load_ttt(lm, tmp_path / "out") == 1
    with pytest.raises(UserError, match="belong to the base model"):
        load_ttt(tiny_lm(seed=6, **SHAPE), tmp_path / "out")
    del everything["out_norm.alpha"]
    write_checkpoint(tmp_path / "in", everything, name="consolidated")
    with pytest.raises(UserError, match=r"1 tensors of the base model .* first out_norm.alpha"):
        import_original(folder)


BLOCK = "transformer.layers.1.seq_modeling_block"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            {f"{BLOCK}.ttt_layer.ttt.conv.weight": torch.zeros(2), "strange": torch.zeros(1)},
            rf"1 tensors were not understood, and nothing was imported: {BLOCK}.*conv.weight$",
        ),
        ({"strange.weight": torch.zeros(1)}, "not understood, .*: strange.weight$"),
        (
            {"transformer.layers.0.gating.w_down": torch.zeros(2)},
            "a checkpoint of In-Place TTT .*first transformer.layers.0.gating.w_down.*no such",
        ),
        (
            {"transformer.layers.0.gating.target_generator.conv.weight": torch.zeros(2)},
            "a checkpoint of In-Place TTT",
        ),
        (
            {f"{BLOCK}.ttt_layer.ttt.weights.0": torch.zeros(2)},
            "small models of three maps or more",
        ),
        ({f"{BLOCK}.ttt_layer.ttt.b2": None}, r"1 tensors are missing .*b2: .* given nothing"),
        (
            {f"{BLOCK}.ttt_layer.ttt.wq.bias": torch.zeros(3)},
            r"of another shape, the first .*q_proj.bias: needed \(64,\), given \(3,\)",
        ),
        ({f"{BLOCK}.forward_ssm_gating.gating_alpha": None}, "not a TTT layer that can be built"),
        ({f"{BLOCK}.ttt_layer.ttt.wq.lora_A.weight": torch.zeros(2, DIM)}, "not understood"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_its_keys(tmp_path, tensors, sentence):
    given = {**ttt_tensors(), **tensors}
    folder = write_checkpoint(tmp_path, {k: t for k, t in given.items() if t is not None})
    with pytest.raises(UserError, match=sentence):
        import_original(folder)


def test_two_tensors_where_there_should_be_one_twice_are_refused(tmp_path: Path) -> None:
    tensors = ttt_tensors() | renamed(lora_tensors())
    name = f"{BLOCK}.original_layer.gating.linear_in.lora_A.weight"
    tensors[name] = tensors[name] + 1
    with pytest.raises(UserError, match=f"1 tensors were not understood.*: {name}"):
        import_original(write_checkpoint(tmp_path, tensors))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint of the original code"):
        import_original(tmp_path)
    folder = write_checkpoint(tmp_path, lora_tensors())
    with pytest.raises(UserError, match="holds no TTT layers of the original code"):
        import_original(folder)
    path = folder / "consolidated" / "lora.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        import_original(folder)


def test_a_lora_without_its_rank_or_model_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, ttt_tensors() | renamed(lora_tensors()))
    path = folder / "consolidated" / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in told.items() if k != "lora_rank"}))
    with pytest.raises(UserError, match=r"config.json does not say lora_rank and lora_scaling"):
        import_original(folder)
    path.write_text(json.dumps({**told, "dim": "wide"}))
    with pytest.raises(UserError, match=r"config.json: not a Moshi that can be built"):
        import_original(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"config.json: "):
        import_original(folder)

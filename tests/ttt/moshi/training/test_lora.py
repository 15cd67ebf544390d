"""LoRA in a frozen model: what it adds, what it leaves alone, and the published package's files."""

import json

import pytest
import torch
from moshi.models import loaders
from moshi.modules.lora import LoRALinear as PublishedLoRALinear
from moshi.utils.compile import no_compile
from safetensors.torch import load_file, save_file

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import evaluate_codes, insert_ttt
from ttt.moshi.insert import temporal_layers
from ttt.moshi.tiny import tiny_arguments
from ttt.moshi.training import (
    freeze_base,
    insert_lora,
    load_lora,
    lora_parameters,
    match_rank,
    save_lora,
)
from ttt.moshi.training.lora import lora_linears
from ttt.moshi.ttt_files import base_fingerprint

ARGUMENTS = tiny_arguments(
    12,
    dim=64,
    num_layers=4,
    num_heads=4,
    card=64,
    text_card=48,
    depformer_dim=32,
    depformer_layers=2,
    depformer_heads=4,
)
"""Of `small_lm`."""


def with_lora(lm, rank=3, moved=True, **options):
    insert_lora(lm, rank, generator=torch.Generator().manual_seed(1), **options)
    if moved:
        generator = torch.Generator().manual_seed(2)
        for linear in lora_linears(lm).values():
            torch.nn.init.normal_(linear.lora_B.weight, std=0.05, generator=generator)
    return lm


def heard(lm, frames=40):
    tokens = torch.randint(40, (2, 17, frames), generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), no_compile():
        return lm.forward_text(tokens)[0]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64))
def test_it_starts_as_the_base_and_then_is_w_plus_ba(small_lm, dtype):
    lm, base = small_lm(None, dtype=dtype), small_lm(None, dtype=dtype)
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    assert insert_lora(lm, 3) == 4 * 4
    assert torch.equal(heard(lm), heard(base))
    state = lm.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    assert {state[name].dtype for name in state.keys() - before.keys()} == {exact}
    for name, linear in lora_linears(lm).items():
        torch.nn.init.normal_(linear.lora_B.weight, std=0.05)
        product = 2.0 * linear.lora_B.weight @ linear.lora_A.weight
        with torch.no_grad():
            base.get_submodule(name).weight += product.to(dtype)
    limit = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float64: 1e-10}[dtype]
    assert (heard(lm) - heard(base)).abs().max() < limit * heard(base).abs().max()


@pytest.mark.parametrize("target", ("in_projs", "out_projs", "gating"))
def test_each_target_is_heard(small_lm, target):
    lm = with_lora(small_lm(None), targets=(target,))
    assert all(f".{target}." in name for name in lora_linears(lm))
    assert (heard(lm) - heard(small_lm(None))).abs().max() > 1e-3


@pytest.mark.parametrize("targets", (("in_projs",), ("out_projs", "gating")))
@pytest.mark.parametrize("rank", (1, 5))
def test_parameters_are_counted_and_ranks_matched(small_lm, targets, rank):
    lm = small_lm(None)
    count = sum(p.numel() for p in lm.parameters())
    expected = lora_parameters(lm, rank, targets)
    assert match_rank(lm, targets, expected) == rank
    assert match_rank(lm, targets, expected + 40) == rank
    assert match_rank(lm, targets, 1) == 1
    insert_lora(lm, rank, targets=targets)
    assert sum(p.numel() for p in lm.parameters()) - count == expected


def test_the_7b_has_as_many_as_the_arithmetic_says():
    with torch.device("meta"):
        lm = loaders.get_moshi_lm(None, loaders._lm_kwargs, "meta")
    count = lora_parameters(lm, 128)
    assert count == 32 * 128 * (16384 + 8192 + 26624 + 15360)
    assert match_rank(lm, ("in_projs", "out_projs", "gating"), 1_144_000_000) == 537


def test_it_streams_with_rings_of_the_bases_type_and_ttt_after_it(small_lm, speech):
    lm = with_lora(small_lm(None, dtype=torch.bfloat16))
    insert_ttt(lm, [1, 2], TTTConfig(dim=64, num_heads=4, mini_batch_size=8))
    attention = temporal_layers(lm)[0].self_attn
    with lm.streaming(1):
        assert attention._streaming_state.kv_cache.cache.dtype == torch.bfloat16
    codes = speech(frames=30)
    freeze_base(lm)
    assert all(p.dtype == torch.float32 for p in lm.parameters() if p.requires_grad)
    assert evaluate_codes(lm, codes, text_stream="pad").nll.isfinite().all()


def test_the_fingerprint_is_the_bases(small_lm):
    assert base_fingerprint(with_lora(small_lm(None))) == base_fingerprint(small_lm(None))


def published(lm, folder, *, fuse):
    """The base of `folder` with the LoRA beside it, by the published loader."""
    base = {k: t.contiguous() for k, t in lm.state_dict().items() if ".lora_" not in k}
    save_file(base, folder / "base.safetensors")
    config = json.loads((folder / "config.json").read_text())
    return loaders.get_moshi_lm(
        folder / "base.safetensors",
        config,
        "cpu",
        torch.float32,
        folder / "lora.safetensors",
        fuse,
    )


@pytest.mark.parametrize("fuse", (True, False))
@pytest.mark.parametrize("targets", (("in_projs", "out_projs", "gating"), ("gating",)))
def test_the_published_loader_takes_what_is_saved(small_lm, tmp_path, fuse, targets):
    lm = with_lora(small_lm(None), targets=targets, scaling=1.5)
    save_lora(lm, tmp_path, ARGUMENTS)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == ARGUMENTS | {"lora": True, "lora_rank": 3, "lora_scaling": 1.5}
    theirs = published(lm, tmp_path, fuse=fuse)
    assert not any(parameter.is_meta for parameter in theirs.parameters())
    assert any(isinstance(m, PublishedLoRALinear) for m in theirs.modules()) != fuse
    tokens = torch.randint(40, (2, 17, 30))
    with torch.no_grad(), no_compile():
        ours, others = lm(tokens), theirs(tokens)
    assert (ours.logits - others.logits).nan_to_num().abs().max() < 1e-5
    assert (ours.text_logits - others.text_logits).abs().max() < 1e-5


@pytest.mark.parametrize("targets", (("in_projs", "out_projs", "gating"), ("out_projs",)))
def test_what_is_saved_is_trained_further_exactly(small_lm, tmp_path, targets):
    lm = with_lora(small_lm(None), targets=targets, scaling=1.5)
    save_lora(lm, tmp_path, ARGUMENTS)
    again = small_lm(None)
    assert load_lora(again, tmp_path) == targets
    assert again.state_dict().keys() == lm.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], t) for k, t in lm.state_dict().items())
    assert torch.equal(heard(again), heard(lm))


def test_a_file_before_the_first_step_keeps_its_targets(small_lm, tmp_path):
    save_lora(with_lora(small_lm(None), moved=False, targets=("gating",)), tmp_path, ARGUMENTS)
    assert load_lora(small_lm(None), tmp_path) == ("gating",)


def rewritten(folder, change):
    tensors = load_file(folder / "lora.safetensors")
    change(tensors)
    save_file(tensors, folder / "lora.safetensors")


def add_ttt(tensors):
    tensors["transformer.layers.1.ttt.alpha"] = torch.zeros(64)


def widen(tensors):
    key = "transformer.layers.1.gating.linear_in.lora_A.weight"
    tensors[key] = torch.zeros(3, 65)


def train_the_depformer(tensors):
    tensors["depformer.layers.0.self_attn.out_projs.0.lora_B.weight"] += 1


def lose(tensors):
    del tensors["text_linear.lora_A.weight"]


def empty(tensors):
    for tensor in tensors.values():
        tensor.zero_()


BAD = {
    add_ttt: r"lora.safetensors holds TTT layers, too \(1 tensors, the first transformer.layers.1",
    widen: r"does not fit this model at rank 3 in 1 tensors, the first .*linear_in.lora_A.weight "
    r"\(\(3, 65\), not \(3, 64\)\); load the base",
    train_the_depformer: r"trains 1 Linears outside of the temporal transformer's in_projs, "
    r"out_projs, gating, the first depformer.layers.0.self_attn.out_projs.0; it can be",
    lose: r"in 1 tensors, the first text_linear.lora_A.weight \(missing, not \(3, 64\)\)",
    empty: r"all of lora.safetensors is zero; train from the base",
}


@pytest.mark.parametrize("change", BAD, ids=lambda change: change.__name__)
def test_what_does_not_fit_is_refused_and_changes_nothing(small_lm, tmp_path, change):
    save_lora(with_lora(small_lm(None)), tmp_path, ARGUMENTS)
    rewritten(tmp_path, change)
    lm = small_lm(None)
    keys = list(lm.state_dict())
    with pytest.raises(UserError, match=BAD[change]):
        load_lora(lm, tmp_path)
    assert list(lm.state_dict()) == keys


def test_damaged_and_missing_files_are_named(small_lm, tmp_path):
    lm = small_lm(None)
    with pytest.raises(UserError, match=r"not a folder of moshi-finetune's LoRA, lora.safetensors"):
        load_lora(lm, tmp_path)
    save_lora(with_lora(small_lm(None)), tmp_path, ARGUMENTS)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json lacks 'lora_rank', which the LoRA was made"):
        load_lora(lm, tmp_path)
    (tmp_path / "config.json").write_text('{"lora_rank": 3, "lora_scaling": 2.0}')
    (tmp_path / "lora.safetensors").write_bytes(b"12345678901")
    with pytest.raises(UserError, match="the LoRA cannot be read"):
        load_lora(lm, tmp_path)
    with pytest.raises(UserError, match="this model has no LoRA to save"):
        save_lora(lm, tmp_path, ARGUMENTS)


def test_models_that_do_not_fit_are_refused(small_lm):
    with pytest.raises(UserError, match=r"TTT in layers \[1, 2\] already: insert LoRA before TTT"):
        insert_lora(small_lm("mlp"), 3)
    lm = with_lora(small_lm(None))
    with pytest.raises(UserError, match="has LoRA in 16 Linears already, the first transformer"):
        insert_lora(lm, 3)
    for rank in (0, -1):
        with pytest.raises(UserError, match=f"the rank of LoRA must be 1 or more, not {rank}"):
            insert_lora(small_lm(None), rank)
    for targets in ((), ("gating", "gating"), ("emb",)):
        with pytest.raises(UserError, match="must name one or more of in_projs, out_projs, gating"):
            insert_lora(small_lm(None), 3, targets=targets)
        with pytest.raises(UserError, match="must name one or more of in_projs, out_projs, gating"):
            match_rank(small_lm(None), targets, 100)

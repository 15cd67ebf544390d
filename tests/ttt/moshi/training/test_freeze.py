"""Three steps of AdamW: the base keeps its bytes, and all that is trained has moved."""

import pytest
import torch

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt
from ttt.moshi.insert import attention_window
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training import (
    MemoryConfig,
    MoshiTrainingConfig,
    freeze_base,
    insert_lora,
    insert_trained,
    sparing,
    training_nll,
)
from ttt.moshi.training.config import LoRAConfig, TTTLayersConfig, WindowStageConfig
from ttt.moshi.training.freeze import insert_unset_trained

STAGES = (WindowStageConfig(frames=64, steps=1, frames_per_step=64),)
LAYERS = TTTLayersConfig(layers=(0, 2), attention_context=7)
CONFIGS = {
    "ttt": MoshiTrainingConfig(ttt=LAYERS, stages=STAGES),
    "lora": MoshiTrainingConfig(lora=LoRAConfig(rank=3, targets=("gating",)), stages=STAGES),
    "a matched control": MoshiTrainingConfig(
        lora=LoRAConfig(rank="match", match=LAYERS), stages=STAGES
    ),
    "both": MoshiTrainingConfig(ttt=LAYERS, lora=LoRAConfig(rank=2), stages=STAGES),
}


def prepared(lm, what):
    if "lora" in what:
        insert_lora(lm, 2)
    if "ttt" in what:
        insert_ttt(lm, [1, 3], TTTConfig(dim=64, num_heads=4, mini_batch_size=8), gate=0.5)
    return lm


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("names", (["ttt", "gate"], ["lora"], ["ttt", "gate", "lora"]))
def test_only_what_was_inserted_is_trained(small_lm, speech, names, dtype):
    base = small_lm(None, dtype=dtype).state_dict()
    lm = prepared(small_lm(None, dtype=dtype), names)
    added = [name for name in lm.state_dict() if name not in base]
    groups = freeze_base(lm)
    assert list(groups) == names
    trained = {name: p for named in groups.values() for name, p in named.items()}
    assert sorted(trained) == sorted(added)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {n for n, p in lm.named_parameters() if p.requires_grad} == trained.keys()
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(list(trained.values()), lr=1e-3, weight_decay=0.0)
    codes, memory = speech(frames=30), MemoryConfig(checkpoint_layers=True, head_block=8)
    for _ in range(3):
        with sparing(lm, memory, 30):
            streams = Streams(lm, codes, text_stream="pad")
            training_nll(lm, streams, head_block=memory.head_block).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = lm.state_dict()
    for name, tensor in base.items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor.view(torch.uint8), state[name].view(torch.uint8)), name
    assert all(not torch.equal(trained[name], tensor) for name, tensor in before.items())
    assert all(p.isfinite().all() for p in trained.values())


def test_gates_are_apart_from_their_layers(small_lm):
    groups = freeze_base(prepared(small_lm(None), ("ttt", "lora")))
    assert list(groups["gate"]) == [f"transformer.layers.{n}.ttt.alpha" for n in (1, 3)]
    assert all(".ttt.layer." in name for name in groups["ttt"])
    assert all(".lora_" in name for name in groups["lora"])


def test_float32_layers_in_a_bfloat16_model_are_close_to_their_export(small_lm, speech):
    """Both compute in bfloat16; the trained ones keep more digits of their weights."""
    lm = prepared(small_lm(None, dtype=torch.bfloat16), ("ttt",))
    codes = speech(frames=40)
    losses = []
    for change in (lambda: None, lambda: freeze_base(lm)):
        change()
        with torch.no_grad(), sparing(lm, MemoryConfig(), 40):
            losses.append(training_nll(lm, Streams(lm, codes, text_stream="pad")))
    assert losses[0].dtype == torch.float32
    assert (losses[0] - losses[1]).abs().mean() < 0.02
    assert not torch.equal(*losses)


def test_half_precision_learns_the_same_by_groups(small_lm, speech):
    """The float32 layers are cast to bfloat16 anew in every group, forward and backward."""
    lm = prepared(small_lm(None, dtype=torch.bfloat16), ("ttt", "lora"))
    trained = [p for named in freeze_base(lm).values() for p in named.values()]
    generator, codes = torch.Generator().manual_seed(7), speech(frames=56)
    for parameter in trained:
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    memories = (
        MemoryConfig(attention_block=100),
        MemoryConfig(checkpoint_layers=True, checkpoint_mini_batches=2, head_block=9),
    )
    gradients = []
    for memory in memories:
        lm.zero_grad()
        with sparing(lm, memory, 56):
            streams = Streams(lm, codes, text_stream="pad")
            training_nll(lm, streams, head_block=memory.head_block).mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in trained]))
    plain, spared = gradients
    assert plain.dtype == torch.float32
    assert (plain - spared).norm() < 0.05 * plain.norm()


def test_a_base_model_alone_is_not_trained(small_lm):
    with pytest.raises(UserError, match="nothing is there to be trained: insert TTT layers or"):
        freeze_base(small_lm(None))


@pytest.mark.parametrize("device", ("meta", "cpu"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("what", CONFIGS)
def test_what_is_not_drawn_has_the_same_shapes(small_lm, what, dtype, device):
    drawn, lm = small_lm(None, dtype=dtype), small_lm(None, dtype=dtype).to(device)
    before = torch.get_rng_state()
    insert_unset_trained(lm, CONFIGS[what])
    assert torch.equal(torch.get_rng_state(), before)
    insert_trained(drawn, CONFIGS[what])
    assert attention_window(lm) == attention_window(drawn)
    groups, expected = freeze_base(lm), freeze_base(drawn)
    assert groups.keys() == expected.keys()
    for group, named in expected.items():
        found = {name: (p.shape, p.dtype, p.device.type) for name, p in groups[group].items()}
        assert found == {name: (p.shape, p.dtype, device) for name, p in named.items()}
    if device == "cpu":
        lm.load_state_dict({n: p for named in expected.values() for n, p in named.items()}, False)
        for name, tensor in drawn.state_dict().items():
            assert torch.equal(lm.state_dict()[name], tensor), name

"""Three steps of AdamW: the base keeps its bytes, and all that is trained has moved."""

import pytest
import torch

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt
from ttt.moshi.streaming.streams import Streams
from ttt.moshi.training import MemoryConfig, freeze_base, insert_lora, sparing, training_nll


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

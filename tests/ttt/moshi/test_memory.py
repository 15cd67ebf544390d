"""What an evaluation takes beyond the weights: the 7B by computing, small models by counting."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu.models import random_moshi
from benchmarks.sizes import PUBLISHED
from ttt.moshi import Evaluation
from ttt.moshi.insert import ttt_layers
from ttt.moshi.memory import memory_need
from ttt.moshi.streaming.streams import Streams


def test_the_7b_with_16_ttt_layers_stays_under_3_gb():
    lm = random_moshi("meta", PUBLISHED, ttt=True)
    assert len(ttt_layers(lm)) == 16
    need = memory_need(lm, batch=1, chunk=64)
    assert need.rings == 32 * 2 * (3000 + 64) * 4096 * 2
    fast_weights = 32 * (2 * 128 * 512 + 512 + 128) * 4
    assert 16 * 2 * fast_weights < need.ttt < 16 * 3 * fast_weights
    assert need.total == need.rings + need.ttt + need.working
    assert need.total < 3e9


class LargestSum(TorchDispatchMode):
    """The most bytes that storages made while it is on hold at the same time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.alive = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        out = function(*args, **(kwargs or {}))
        for tensor in filter(_is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata)
        self.most = max(self.most, self.now)
        return out

    def forget(self, key):
        self.now -= self.alive.pop(key, 0)


def _is_tensor(leaf):
    return isinstance(leaf, torch.Tensor)


@pytest.mark.parametrize("text_stream", ["own", "pad"])
def test_a_longer_chapter_takes_no_more(small_lm, speech, text_stream):
    lm, most = small_lm(padding_bias=4.0), []
    for frames in (200, 600):
        with (
            Evaluation(
                Streams(lm, speech(frames=frames), text_stream=text_stream), chunk=32
            ) as evaluation,
            LargestSum() as counted,
        ):
            for _ in evaluation:
                pass
        most.append(counted.most)
    assert most[1] <= 1.02 * most[0]


@pytest.mark.parametrize("ttt", [None, "mlp"])
@pytest.mark.parametrize(("batch", "chunk"), [(1, 8), (2, 32)])
def test_small_models_take_what_was_computed(small_lm, speech, ttt, batch, chunk):
    lm = small_lm(ttt, dim=128 if ttt is None else 64)
    need = memory_need(lm, batch, chunk)
    codes = speech(batch=batch, frames=300)
    with Evaluation(Streams(lm, codes, text_stream="pad"), chunk=chunk) as evaluation:
        rings = [layer.self_attn._streaming_state.kv_cache.cache for layer in lm.transformer.layers]
        assert need.rings == sum(ring.nbytes for ring in rings)
        with LargestSum() as counted:
            for _ in evaluation:
                learnt = sum(each.learnt.nbytes for each in ttt_layers(lm).values())
                assert learnt <= need.ttt
    assert counted.most < need.ttt + need.working
    assert counted.most > 0.25 * (need.ttt + need.working)


def test_short_recordings_take_short_rings(small_lm, speech):
    lm = small_lm(None, context=200, dim=128)
    need = memory_need(lm, batch=3, chunk=10, max_steps=21)
    streams = Streams(lm, speech(batch=3, frames=20), text_stream="pad")
    with Evaluation(streams, chunk=10) as evaluation:
        caches = [layer.self_attn._streaming_state.kv_cache for layer in lm.transformer.layers]
        assert {ring.capacity for ring in caches} == {21 + 10}
        assert need.rings == sum(ring.cache.nbytes for ring in caches)
        list(evaluation)
    assert memory_need(lm, 3, 10, max_steps=999).rings == memory_need(lm, 3, 10).rings

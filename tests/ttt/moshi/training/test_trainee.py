"""Training in Moshi by the one loop: what a step is, what is saved, and exact resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.chapter_caches import write_cache
from tests.ttt.moshi.training.runs import (
    CONFIG,
    LACT,
    LAST,
    MICRO_BATCHES,
    TOTAL_STEPS,
    Log,
    run,
    run_over_two_ranks,
    small_base,
    trainee,
    window_batch,
)
from tests.two_ranks import Killed
from ttt import checkpoint
from ttt.errors import UserError
from ttt.moshi import evaluate_codes
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.chapter_cache.windows import ChapterWindowPlan, ChapterWindowShape, read_windows
from ttt.moshi.insert import ttt_layers
from ttt.moshi.training import (
    MemoryConfig,
    MoshiTrainee,
    WindowBatch,
    insert_trained,
    lora_rank,
)
from ttt.moshi.training.config import LoRAConfig
from ttt.training.micro_batches import BatchId


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log, list[str]]:
    folder, log, heard = tmp_path_factory.mktemp("run"), Log(), list[str]()
    assert run(folder, [log], log=heard).step == TOTAL_STEPS
    return folder, log, heard


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("killed_in", (1, 3, 4))
def test_killed_and_resumed_is_bit_for_bit_uninterrupted(tmp_path, whole, killed_in):
    with pytest.raises(Killed):
        run(tmp_path, [Log(killed_in)])
    torch.manual_seed(999)
    assert run(tmp_path).step == TOTAL_STEPS
    assert content(tmp_path / LAST) == content(whole[0] / LAST)


@pytest.mark.parametrize("stop_after", (0, 3))
def test_stopped_and_resumed_is_bit_for_bit_uninterrupted(tmp_path, whole, stop_after):
    heard: list[str] = []
    assert run(tmp_path, log=heard, stop_after=stop_after).step == stop_after + 1
    assert (tmp_path / f"checkpoints/step-{stop_after + 1:08d}/COMPLETE").exists()
    assert run(tmp_path, log=heard).step == TOTAL_STEPS
    assert content(tmp_path / LAST) == content(whole[0] / LAST)
    assert heard == whole[2]


def test_a_run_of_lact_layers_resumes_and_its_keys_are_taught_where_windows_are_longer(tmp_path):
    run(tmp_path / "whole", config=LACT)
    with pytest.raises(Killed):
        run(tmp_path / "cut", [Log(4)], config=LACT)
    assert run(tmp_path / "cut", config=LACT).step == TOTAL_STEPS
    assert content(tmp_path / "cut" / LAST) == content(tmp_path / "whole" / LAST)

    trained = trainee(LACT)
    for epoch, reached in ((1, False), (2, True)):
        trained.lm.zero_grad()
        batch = window_batch(epoch, 0, 0)
        trained.accumulate([batch], trained.denominators([batch]), step=0, due=())
        layer = ttt_layers(trained.lm)[1].layer
        for name in ("k_proj.weight", "v_proj.weight", "learnable_ttt_lr_bias"):
            gradient = layer.get_parameter(name).grad
            assert (gradient is not None and bool(gradient.any())) == reached, name
        assert layer.W1.grad.any()


def test_two_ranks_hear_the_same_windows_and_have_the_same_weights(tmp_path, whole):
    together, cut = tmp_path / "together", tmp_path / "cut"
    run_over_two_ranks(together)
    run_over_two_ranks(cut, kill_in=4)
    run_over_two_ranks(cut)
    assert content(together / LAST) == content(cut / LAST)
    told = [json.loads((together / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert sorted(told[0]["heard"] + told[1]["heard"]) == sorted(whole[2])
    assert not set(told[0]["heard"]) & set(told[1]["heard"])
    assert told[0]["terms"] == told[1]["terms"]
    for terms, record in zip(told[0]["terms"], whole[1].steps, strict=True):
        assert terms == pytest.approx(record.terms, rel=1e-5)
    one, two = (checkpoint.load(str(folder / LAST)) for folder in (whole[0], together))
    for name, tensor in one.tensors["model"].items():
        torch.testing.assert_close(two.tensors["model"][name], tensor, rtol=1e-3, atol=1e-5)


def test_only_what_is_trained_is_saved_and_it_moves(whole):
    snapshot, start = checkpoint.load(str(whole[0] / LAST)), trainee()
    initial = start.tensors()["model"]
    assert snapshot.tensors.keys() == {"model", "ema"}
    assert snapshot.tensors["model"].keys() == snapshot.tensors["ema"].keys() == initial.keys()
    assert all(".ttt." in name or ".lora_" in name for name in initial)
    for name, tensor in snapshot.tensors["model"].items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, initial[name]), name


def test_the_groups_have_their_rates(whole):
    first, *_, last = whole[1].steps
    assert first.learning_rates.keys() == {"ttt", "gate", "lora"}
    peaks = CONFIG.optim.peak_rates
    for record in whole[1].steps:
        share = record.learning_rates["ttt"] / peaks.ttt
        assert record.learning_rates["gate"] == pytest.approx(share * peaks.gate)
        assert record.learning_rates["lora"] == pytest.approx(share * peaks.lora)
    assert last.learning_rates["ttt"] < first.learning_rates["ttt"]


@pytest.mark.parametrize(
    "step, epoch, weights", ((0, 1, "moshi"), (2, 1, "moshi"), (0, 2, "uniform"))
)
def test_a_step_is_the_weighted_mean_of_what_the_evaluation_hears(step, epoch, weights):
    config = dataclasses.replace(CONFIG, weights=weights)
    learning = trainee(config)
    batches = [window_batch(epoch, step, micro) for micro in range(MICRO_BATCHES)]
    denominators = learning.denominators(batches)
    terms = learning.accumulate(batches, denominators, step=step, due=["optimizer"])
    heard, counted = [], []
    for batch in batches:
        heard.append(
            evaluate_codes(
                learning.lm,
                batch.codes,
                text_stream=batch.text,
                other_stream="silence",
                silence=learning._silence,
                lengths=None if batch.counted.all() else _lengths(batch),
            ).nll
        )
        counted.append(batch.counted)
    nll, mask = torch.cat(heard), torch.cat(counted)
    by_codebook = torch.stack([each[mask] for each in nll.unbind(1)]).double().mean(1)
    first = 100 if weights == "moshi" else 1
    expected = (first * by_codebook[0] + by_codebook[1:].sum()) / (first + 7)
    assert denominators == {"frames": int(mask.sum()), "weight": int(mask.sum()) * (first + 7)}
    assert float(terms["semantic"]) == pytest.approx(float(by_codebook[0]), rel=1e-5)
    assert float(terms["acoustic"]) == pytest.approx(float(by_codebook[1:].mean()), rel=1e-5)
    assert float(terms["total"]) == pytest.approx(float(expected), rel=1e-5)


def _lengths(batch):
    """Frames up to the last that counts, or 1."""
    places = torch.arange(1, batch.counted.shape[1] + 1)
    return (batch.counted * places).amax(dim=1).clamp(min=1).tolist()


def test_what_is_padding_does_not_matter_and_what_is_heard_before_does():
    learning, batch = trainee(), window_batch(1, 2, 0)
    denominators = learning.denominators([batch])

    def gradients(batch):
        learning.lm.zero_grad()
        learning.accumulate([batch], denominators, step=2, due=["optimizer"])
        return torch.cat([p.grad.flatten() for p in learning.lm.parameters() if p.requires_grad])

    plain = gradients(batch)
    after = batch.codes.clone()
    after[:, :, -4:] = -7
    assert torch.equal(gradients(dataclasses.replace(batch, codes=after)), plain)
    before = batch.codes.clone()
    before[0, :, :3] = 63 - before[0, :, :3]
    assert not torch.equal(gradients(dataclasses.replace(batch, codes=before)), plain)


def test_rows_and_batches_without_frames_change_nothing():
    learning = trainee()
    batch, nothing = window_batch(1, 2, 0), window_batch(1, 2, 1)
    counts = learning.denominators([batch, nothing])
    assert counts == learning.denominators([batch])
    terms = learning.accumulate([batch, nothing], counts, step=2, due=["optimizer"])
    with_row = dataclasses.replace(
        batch,
        ids=[*batch.ids, "none"],
        codes=torch.cat([batch.codes, torch.full_like(batch.codes[:1], -1)]),
        counted=torch.cat([batch.counted, torch.zeros_like(batch.counted[:1])]),
        text=torch.cat([batch.text, batch.text[:1]]),
    )
    again = learning.accumulate([with_row], counts, step=2, due=["optimizer"])
    assert again == terms
    empty = learning.accumulate([nothing], counts, step=2, due=["optimizer"])
    assert {name: float(value) for name, value in empty.items()} == dict.fromkeys(terms, 0.0)


def test_windows_of_a_cache_are_its_frames(tmp_path):
    chapters = write_cache(tmp_path, [20, 33, 5], text=True)
    cache, learning = ChapterCache.open(tmp_path), trainee()
    plan = ChapterWindowPlan(cache.n_frames, seed=2)
    shape = ChapterWindowShape(20, 3, 2)
    places = [BatchId(1, step, micro) for step in range(plan.steps(shape)) for micro in range(2)]
    batches = [
        WindowBatch.of(read_windows(cache, plan.windows(shape, at), at, text=True), cache)
        for at in places
    ]
    names = {each.chapter_id: each for each in chapters}
    heard = 0
    for batch in batches:
        for row, name in enumerate(batch.ids):
            if not name:
                assert not batch.counted[row].any()
                continue
            chapter, _, span = name.removesuffix("]").partition("[")
            start, stop = map(int, span.split(":"))
            heard += stop - start
            assert batch.counted[row].tolist() == [place < stop - start for place in range(20)]
            codes = batch.codes[row][:, batch.counted[row]]
            assert torch.equal(codes.T, torch.from_numpy(names[chapter].codes[start:stop]))
            text = batch.text[row][batch.counted[row]]
            assert text.tolist() == names[chapter].text[start:stop].tolist()
    assert heard == 58
    assert sorted(n for b in batches for n in learning.item_ids(b)) == sorted(
        name for batch in batches for name in batch.ids if name
    )
    counts = learning.denominators(batches)
    assert counts["frames"] == 58
    terms = learning.accumulate(batches, counts, step=0, due=["optimizer"])
    assert all(value.isfinite() and value > 0 for value in terms.values())


def test_the_drawn_parameters_follow_from_the_seed():
    one, two = (dict(trainee().tensors()["model"]) for _ in range(2))
    other = trainee(dataclasses.replace(CONFIG, seed=1)).tensors()["model"]
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in one.items())


def test_the_control_has_as_many_parameters_as_ttt():
    lora = LoRAConfig(rank="match", match=dataclasses.replace(CONFIG.ttt, kind="mlp"))
    control = dataclasses.replace(CONFIG, ttt=None, lora=lora)
    rank = lora_rank(small_base(), lora)
    counts = [
        sum(tensor.numel() for tensor in trainee(config).tensors()["model"].values())
        for config in (control, dataclasses.replace(CONFIG, lora=None, ttt=lora.match))
    ]
    per_rank = counts[0] // rank
    assert abs(counts[0] - counts[1]) <= per_rank / 2
    assert rank > 1


def test_what_training_lacks_is_said_in_a_sentence():
    lm = small_base()
    insert_trained(lm, CONFIG)
    for silence, there in ((None, "none"), (torch.zeros(8, 19, dtype=torch.int64), "19 frames")):
        with pytest.raises(
            UserError, match=f"codes of silence for 20 frames, and there are {there}"
        ):
            MoshiTrainee(lm, CONFIG, silence=silence)
    batch = dataclasses.replace(window_batch(1, 0, 0), text=None)
    learning = trainee()
    counts = learning.denominators([batch])
    with pytest.raises(UserError, match="text: own needs the text that the base model chose, and"):
        learning.accumulate([batch], counts, step=0, due=["optimizer"])
    wrong = dataclasses.replace(CONFIG.ttt, num_heads=5)
    with pytest.raises(UserError, match="ttt: num_heads=5 must divide dim=32 into heads of even"):
        insert_trained(small_base(), dataclasses.replace(CONFIG, ttt=wrong))


def test_out_of_memory_names_the_keys_to_change(monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ttt.moshi.training.trainee.training_nll", fail)
    learning, batch = trainee(), window_batch(2, 0, 0)
    with pytest.raises(UserError, match=r"step 5: out of memory with 1 windows of 20 frames in a "):
        learning.accumulate([batch], {"frames": 20, "weight": 1.0}, step=4, due=["optimizer"])
    assert learning.config.memory == MemoryConfig(
        checkpoint_layers=True, checkpoint_mini_batches="auto", head_block=6
    )


def test_a_bfloat16_base_is_trained_too():
    learning, batch = trainee(dtype=torch.bfloat16), window_batch(1, 0, 0)
    update = learning.updates(1)[0]
    update.set_rates(learning.rates(learning.epochs[0], 1))
    before = {name: tensor.clone() for name, tensor in learning.tensors()["model"].items()}
    losses = []
    for step in range(4):
        counts = learning.denominators([batch])
        terms = learning.accumulate([batch], counts, step=step, due=["optimizer"])
        losses.append(float(terms["total"]))
        update.optimizer.step()
        update.optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert all(not torch.equal(learning.tensors()["model"][n], t) for n, t in before.items())

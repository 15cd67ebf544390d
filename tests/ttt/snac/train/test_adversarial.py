"""The adversarial phase against its promises: exact resume, real samples alone, nothing unasked.

Run as a script, this file is one rank of a two-rank run (see `run_two_ranks`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.nano_cache import write_nano_cache
from tests.ttt.snac.train.rig import (
    N_TRAIN,
    N_VALID,
    NANO_DISCRIMINATORS,
    TOTAL_STEPS,
    KillAfter,
    Log,
    Rig,
    content,
)
from tests.two_ranks import Killed, be_a_rank, run_two_ranks
from ttt import checkpoint
from ttt.errors import UserError
from ttt.snac.config import DiscriminatorConfig
from ttt.snac.discriminators import Discriminators, save
from ttt.snac.train.adversarial import Adversary, CollapseWarning, JudgedWindows
from ttt.snac.train.config import AdversarialConfig
from ttt.snac.train.decoder import DecoderTrainee
from ttt.snac.train.optim import OptimConfig
from ttt.training.hooks import StepRecord
from ttt.training.ranks import ProcessGroup
from ttt.training.schedules import EpochPlan
from ttt.training.state import TrainState

BEGUN_AT = 1
PHASE = AdversarialConfig(
    discriminators=NANO_DISCRIMINATORS,
    first_step=BEGUN_AT,
    hold_steps=2,
    ramp_steps=2,
    lr=1e-3,
    r1_gamma=10,
    r1_every=2,
    give_up_after=None,
)
FINAL = f"checkpoints/step-{TOTAL_STEPS:08d}"
EPOCHS = [EpochPlan(number=1, phase=1, steps=9, first_step=0, phase_first_step=0, phase_steps=9)]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano_cache(tmp_path_factory.mktemp("cache"), N_TRAIN + N_VALID)


def rig(cache: Path, run: Path, phase: AdversarialConfig | None = PHASE) -> Rig:
    return Rig(cache, run, adversarial=phase, with_validation=False)


@pytest.fixture(scope="session")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    run, log = tmp_path_factory.mktemp("whole"), Log()
    rig(cache, run).train([log])
    return run, log


def tensors(run: Path, step: int, file: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(str(run / f"checkpoints/step-{step:08d}")).tensors[file]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_discriminators_begin_learn_alone_and_then_teach(
    cache: Path, tmp_path: Path, whole: tuple[Path, Log]
) -> None:
    run, log = whole
    rig(cache, tmp_path, None).train()
    for step in range(1, TOTAL_STEPS + 1):
        moved = changed(tensors(tmp_path, step, "model"), tensors(run, step, "model"))
        assert bool(moved) == (step > BEGUN_AT + PHASE.hold_steps), step
    networks = [tensors(run, step, "discriminators") for step in range(1, TOTAL_STEPS + 1)]
    assert all(len(changed(*pair)) == len(networks[0]) for pair in itertools.pairwise(networks))
    assert "discriminator" not in log.steps[0].terms
    terms = {"discriminator", "adversarial", "feature"}
    assert all(terms <= record.terms.keys() for record in log.steps[BEGUN_AT:])
    assert list(log.steps[-1].grad_norms) == ["discriminators", "optimizer"]
    # What the decoder hears rises over the ramp.
    last = log.steps[-1].terms
    taught = last["total"] - sum(last[name] for name in ("l1", "stft_linear", "stft_log", "mel"))
    assert taught == pytest.approx(last["adversarial"] + last["feature"], rel=1e-4)


@pytest.mark.parametrize("killed_in", [1, 2, 4, 7, 8])
def test_killed_in_any_step_and_resumed_is_bit_for_bit_uninterrupted(
    cache: Path, tmp_path: Path, whole: tuple[Path, Log], killed_in: int
) -> None:
    with pytest.raises(Killed):
        rig(cache, tmp_path).train([KillAfter(killed_in)])
    torch.manual_seed(999)  # another process has drawn other numbers
    rig(cache, tmp_path).train()
    ours, theirs = content(str(tmp_path / FINAL)), content(str(whole[0] / FINAL))
    assert ours == theirs
    assert "discriminators.safetensors" in ours


def test_with_both_weights_at_nothing_the_decoder_is_the_one_without(
    cache: Path, tmp_path: Path
) -> None:
    silent = dataclasses.replace(PHASE, first_step=None, weight=0.0, feature_weight=0.0)
    rig(cache, tmp_path / "silent", silent).train()
    rig(cache, tmp_path / "without", None).train()
    ours, theirs = (content(str(tmp_path / name / FINAL)) for name in ("silent", "without"))
    assert ours["model.safetensors"] == theirs["model.safetensors"]
    assert "discriminators.safetensors" not in theirs


def test_two_ranks_are_one_rank(cache: Path, tmp_path: Path, whole: tuple[Path, Log]) -> None:
    """The same samples and close losses; killed by SIGKILL and resumed with two, bit for bit."""
    together, cut = tmp_path / "together", tmp_path / "cut"
    run_two_ranks(__file__, cache, together, 0)
    run_two_ranks(__file__, cache, cut, 5, killed=True)
    run_two_ranks(__file__, cache, cut, 0)
    assert content(str(together / FINAL)) == content(str(cut / FINAL))
    records = [json.loads(line) for line in (together / "log.jsonl").read_text().splitlines()]
    for ours, record in zip(records, whole[1].steps, strict=True):
        assert ours["denominators"] == record.denominators
        assert ours["terms"] == pytest.approx(record.terms, rel=1e-3)


def test_a_step_that_is_not_finite_moves_neither_network(cache: Path, tmp_path: Path) -> None:
    spoiled = rig(cache, tmp_path)
    bad = 5

    def spoil(steps: Iterator[list]) -> Iterator[list]:
        for batches in steps:
            if next(count) == bad - 1:
                kept = _poison(spoiled.trainee)
                yield batches
                _mend(spoiled.trainee, kept)
            else:
                yield batches

    count = itertools.count()
    source = spoiled.source.step_batches
    spoiled.source.step_batches = lambda epoch, first: spoil(source(epoch, first))
    log = Log()
    assert spoiled.train([log]).skipped == 1
    assert [record.taken for record in log.steps] == [n != bad for n in range(1, TOTAL_STEPS + 1)]
    assert math.isfinite(log.steps[bad - 1].terms["l1"])
    before, after = (tensors(tmp_path, step, "model") for step in (bad - 1, bad))
    assert not changed(before, after)
    before, after = (tensors(tmp_path, step, "discriminators") for step in (bad - 1, bad + 1))
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert changed(before, after)


@torch.no_grad()
def _poison(trainee: DecoderTrainee) -> torch.Tensor:
    assert trainee.adversary is not None
    bias = next(p for n, p in trainee.adversary.networks.named_parameters() if n.endswith("bias"))
    kept = bias.clone()
    bias.fill_(math.nan)
    return kept


@torch.no_grad()
def _mend(trainee: DecoderTrainee, kept: torch.Tensor) -> None:
    assert trainee.adversary is not None
    bias = next(p for n, p in trainee.adversary.networks.named_parameters() if n.endswith("bias"))
    bias.copy_(kept)


def judge(windows: JudgedWindows, phase: AdversarialConfig, step: int = 5) -> tuple:
    adversary = Adversary(phase, EPOCHS, torch.device("cpu"))
    pull, terms = adversary.judge(windows, step=step)
    grads = [parameter.grad for parameter in adversary.networks.parameters()]
    return pull, terms, grads


@pytest.mark.parametrize("recipe", ["xcodec2", "dac"])
def test_padding_teaches_nothing_and_a_row_does_not_depend_on_the_others(recipe: str) -> None:
    discriminators = DiscriminatorConfig(
        recipe=recipe,  # pyright: ignore[reportArgumentType]
        periods=(2, 7),
        period_channels=2,
        period_max_channels=8,
        n_ffts=(64, 256),
        spectral_channels=2,
    )
    phase = dataclasses.replace(PHASE, discriminators=discriminators, first_step=1, hold_steps=0)
    lengths = [4000, 2500, 60, 0, 4000]
    random = torch.Generator().manual_seed(0)
    estimate, target = (0.1 * torch.randn(5, 4000, generator=random) for _ in range(2))
    judged = 4000 + 2500 + 4000
    padded = JudgedWindows(estimate, target, lengths, judged)
    pull, terms, grads = judge(padded, phase)
    for row, length in enumerate(lengths):
        assert not pull[row, length:].any()
        assert bool(pull[row, :length].any()) == (length > 200)
    # Whatever lies in the padding, and whichever rows stand beside it.
    noise = estimate.clone(), target.clone()
    for row, length in enumerate(lengths):
        for each in noise:
            each[row, length:] = 9.0
    other_pull, other_terms, other_grads = judge(JudgedWindows(*noise, lengths, judged), phase)
    assert torch.equal(pull, other_pull)
    assert all(torch.equal(terms[name], other_terms[name]) for name in terms)
    assert all(torch.equal(*pair) for pair in zip(grads, other_grads, strict=True))
    alone = JudgedWindows(estimate[1:2, :2500], target[1:2, :2500], [2500], judged)
    torch.testing.assert_close(judge(alone, phase)[0][0], pull[1, :2500])
    # The sum over micro-batches is the batch.
    halves = [
        judge(JudgedWindows(estimate[part], target[part], lengths[part], judged), phase)
        for part in (slice(0, 2), slice(2, 5))
    ]
    for name, value in terms.items():
        torch.testing.assert_close(halves[0][1][name] + halves[1][1][name], value)
    for one, two, both in zip(halves[0][2], halves[1][2], grads, strict=True):
        torch.testing.assert_close(one + two, both, rtol=1e-3, atol=1e-6)


def test_the_pull_is_the_slope_of_what_is_heard_at_the_old_discriminators() -> None:
    phase = dataclasses.replace(PHASE, hold_steps=0, ramp_steps=1, weight=0.5, feature_weight=2.0)
    random = torch.Generator().manual_seed(0)
    estimate, target = (0.1 * torch.randn(2, 1500, generator=random) for _ in range(2))
    pull, terms, _ = judge(JudgedWindows(estimate, target, [1500, 1500], 3000), phase)
    assert terms["total"] == 0.5 * terms["adversarial"] + 2 * terms["feature"]
    networks = Discriminators(NANO_DISCRIMINATORS)
    gain = NANO_DISCRIMINATORS.target_rms / target.square().mean(1).sqrt()[:, None, None]
    heard = estimate.clone().requires_grad_()
    ours, real = networks(gain * heard[:, None]), networks(gain * target[:, None])
    loss = sum(0.5 * (1 - logits).square().mean() for _, logits in ours)
    for (maps, _), (true_maps, _) in zip(ours, real, strict=True):
        loss = loss + sum(2 * (a - b).abs().mean() for a, b in zip(maps, true_maps, strict=True))
    (slope,) = torch.autograd.grad(loss, heard)
    torch.testing.assert_close(pull, slope)


@pytest.mark.parametrize("quiet", ["target", "both"])
def test_silence_has_a_finite_slope(quiet: str) -> None:
    estimate = torch.zeros(1, 1000) if quiet == "both" else 0.1 * torch.randn(1, 1000)
    pull, terms, grads = judge(JudgedWindows(estimate, torch.zeros(1, 1000), [1000], 1000), PHASE)
    assert pull.isfinite().all()
    assert all(value.isfinite() for value in terms.values())
    assert all(grad.isfinite().all() for grad in grads)


def test_a_step_without_a_row_that_is_long_enough_teaches_nothing() -> None:
    windows = JudgedWindows(torch.randn(2, 100), torch.randn(2, 100), [30, 0], 0)
    pull, terms, _ = judge(windows, PHASE)
    assert not pull.any()
    assert not any(terms.values())


def test_they_run_in_float32_under_autocast() -> None:
    networks = Discriminators(NANO_DISCRIMINATORS)
    audio = torch.randn(1, 1, 1000)
    with torch.autocast("cpu", torch.bfloat16):
        judged = networks(audio)
    for (maps, logits), (plain, plain_logits) in zip(judged, networks(audio), strict=True):
        assert torch.equal(logits, plain_logits)
        assert all(torch.equal(*pair) for pair in zip(maps, plain, strict=True))


def test_the_rate_rises_and_falls_to_its_last_and_is_one_per_step() -> None:
    phase = dataclasses.replace(PHASE, first_step=2, lr=1e-3, final_lr=1e-4, lr_rise_steps=2)
    adversary = Adversary(phase, EPOCHS, torch.device("cpu"))
    rates = [adversary.rate(step) for step in range(9)]
    assert rates[:2] == [0, 0]
    assert rates[2] == pytest.approx(5e-4)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert [adversary.heard(step) for step in range(2, 8)] == [0, 0, 0.5, 1, 1, 1]


def test_what_cannot_begin_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """What `start_from` takes is what `save` wrote, and says which key is another."""
    networks = Discriminators(dataclasses.replace(NANO_DISCRIMINATORS, seed=7))
    save(networks, tmp_path / "discriminators")
    begun = dataclasses.replace(PHASE, start_from=str(tmp_path / "discriminators"))
    adversary = Adversary(begun, EPOCHS, torch.device("cpu"))
    assert not changed(networks.state_dict(), dict(adversary.networks.state_dict()))
    other = dataclasses.replace(NANO_DISCRIMINATORS, period_channels=4)
    wider = dataclasses.replace(begun, discriminators=other)
    with pytest.raises(UserError, match=r"built otherwise \(period_channels\); give adversarial"):
        Adversary(wider, EPOCHS, torch.device("cpu"))
    with pytest.raises(UserError, match="no discriminators there"):
        Adversary(dataclasses.replace(PHASE, start_from=str(tmp_path)), EPOCHS, torch.device("cpu"))
    with pytest.raises(UserError, match=r"after step 7 and .*\.hold_steps 2 later, beyond the"):
        Adversary(dataclasses.replace(PHASE, first_step=7), EPOCHS, torch.device("cpu"))


def test_a_collapse_is_said_once() -> None:
    said: list[str] = []
    hook = CollapseWarning(dataclasses.replace(PHASE, collapse_steps=3), said.append)
    hook.on_start(TrainState())
    for step, loss in enumerate([2.0, 1.0, 1.1, 1.1, 1.1], start=1):
        hook.on_step(_record(step, loss))
    assert said == []
    for step in range(6, 12):
        hook.on_step(_record(step, 1.1))
    (sentence,) = said
    assert sentence.startswith("step 6: the discriminators' loss has stayed at 1.1 for 3 steps")


def _record(step: int, loss: float) -> StepRecord:
    return StepRecord(
        step=step,
        epoch=1,
        phase=1,
        terms={"total": 1.0, "discriminator": loss},
        learning_rates={},
        grad_norms={},
        taken=True,
        denominators={},
        replaced=[],
        data_wait_seconds=0.0,
        step_seconds=1.0,
    )


def test_after_failed_guards_training_is_back_at_its_best_and_goes_on_without(
    cache: Path, tmp_path: Path
) -> None:
    """Too large a rate spoils every guard; killed on the way back, it is the same."""
    phase = dataclasses.replace(PHASE, first_step=0, hold_steps=0, give_up_after=3)
    wild = OptimConfig(head_only_lr=0.2, peak_lr=0.2)

    def start(name: str) -> Rig:
        return Rig(
            cache,
            tmp_path / name,
            optim=wild,
            adversarial=phase,
            best_by="guarded",
            validate_every_steps=1,
        )

    log = Log()
    start("whole").train([log])
    ((step, best_step, why),) = log.turns
    assert "failed their guards in 3 validations in a row under the adversarial loss" in why
    assert best_step is not None
    assert best_step < step
    best, turned = (tensors(tmp_path / "whole", at, "model") for at in (best_step, step))
    assert not changed(best, turned)
    assert all("discriminator" not in record.terms for record in log.steps[step:])
    assert all(result.value is not None and result.value > 1000 for _, result in log.validations)
    with pytest.raises(Killed):
        start("cut").train([KillAfter(step)])
    start("cut").train()
    ours, theirs = (content(str(tmp_path / name / FINAL)) for name in ("cut", "whole"))
    assert ours == theirs


def test_out_of_memory_names_what_to_lower(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*_arguments: object, **_words: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Adversary, "judge", judge)
    said = (
        r"step 2: out of memory with 2 clips of 0\.17 s in a micro-batch; start a new run with a "
        r"lower curriculum\.stages\[\.\.\]\.clips_per_step, or a higher curriculum\."
    )
    with pytest.raises(UserError, match=said):
        rig(cache, tmp_path).train()


def _train(rank: int, cache: str, run: str, kill_after: str) -> None:
    class RankLog(KillAfter):
        def on_step(self, record: StepRecord) -> None:
            if rank == 0:
                line = {"denominators": record.denominators, "terms": record.terms}
                with open(Path(run, "log.jsonl"), "a") as file:
                    file.write(json.dumps(line) + "\n")
            super().on_step(record)

    Path(run).mkdir(exist_ok=True)
    two = Rig(
        Path(cache), Path(run), group=ProcessGroup(), adversarial=PHASE, with_validation=False
    )
    two.train([RankLog(int(kill_after))])


if __name__ == "__main__":
    be_a_rank(_train)

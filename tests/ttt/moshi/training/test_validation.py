"""Validation against the chapter evaluation of the export, over ranks, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.chapter_caches import write_cache
from tests.ttt.moshi.training.runs import CONFIG, Windows, in_training, small_base
from tests.ttt.moshi.training.validation_runs import (
    HEARING,
    LENGTHS,
    SPANS,
    WINDOW,
    measured,
    validate_over_two_ranks,
    validation,
)
from ttt.errors import UserError
from ttt.eval.chapters.hear import EncodedChapter, StreamingOptions, record_group
from ttt.eval.chapters.long_context import summarize
from ttt.eval.chapters.measures import measure_chapter
from ttt.eval.chapters.records import read_record, record_path
from ttt.eval.config import LongContextConfig
from ttt.moshi import load_ttt
from ttt.moshi.chapter_cache.reader import ChapterCache
from ttt.moshi.training import (
    HeardSpan,
    MoshiTrainee,
    Span,
    SpansConfig,
    choose_spans,
    differences,
    require_beyond_window,
    save_trained,
    split_speakers,
)
from ttt.moshi.training.validation.spans import hold_out
from ttt.moshi.ttt_files import base_fingerprint
from ttt.training.config import CheckpointConfig
from ttt.training.hooks import Hook
from ttt.training.loop import LoopSettings, TrainingStopped, train
from ttt.training.ranks import SingleProcess
from ttt.training.state import plan_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    write_cache(folder, LENGTHS)
    return folder


def evaluated(lm, cache: Path, folder: Path, weights):
    """What an evaluation says of the chapters' first frames under a model that was loaded."""
    options = StreamingOptions(
        model="ttt",
        streams={"text_stream": "own", "other_stream": "masked", "stream": "moshi"},
        chunk=HEARING["chunk"],
        state_every_frames=1000,
    )
    opened = ChapterCache.open(cache)
    config = LongContextConfig(weights=weights, bins_per_octave=1)
    measures = []
    for row, chapter in enumerate(opened.chapters):
        codes = opened.read(row, 0, min(chapter.n_frames, SPANS.span_frames)).T
        name = chapter.chapter_id
        encoded = EncodedChapter(name, chapter.speaker, codes)
        record_group(
            lm, [encoded], options,
            silence=None, records_root=folder, state_path=folder / "state",
        )  # fmt: skip
        record = read_record(record_path(folder, name))
        measures.append((measure_chapter(record, WINDOW, config), record))
    return summarize([each for each, _ in measures], WINDOW, config), measures


@pytest.mark.parametrize(
    "dtype, weights",
    ((torch.float32, "moshi"), (torch.bfloat16, "moshi"), (torch.float32, "uniform")),
)
def test_an_evaluation_of_the_export_finds_the_loss_of_validation(cache, tmp_path, dtype, weights):
    lm = in_training(dtype=dtype)
    result = validation(cache, lm, weights=weights)(SingleProcess(), untrained=True)
    export, base = small_base(dtype=dtype), small_base(dtype=dtype)
    fingerprint = base_fingerprint(base)
    save_trained(lm, tmp_path / "export", {}, base_fingerprint=fingerprint, card="")
    load_ttt(export, tmp_path / "export")
    for row, curve, model in (("trained", "curve", export), ("base", "base_curve", base)):
        summary, measures = evaluated(model, cache, tmp_path / row, weights)
        told = summary["losses"][weights]
        for name in ("mean", "beyond_window"):
            assert result.rows[row][name] == pytest.approx(
                told["measures"][name]["mean"], rel=1e-13
            )
        lines = told["curve"]["mean"]
        assert list(result.rows[curve].values()) == pytest.approx(lines, rel=1e-13)
        assert list(result.rows[curve]) == ["from_0", "from_16"]
        inside = [_weighted(record.nll[:, :WINDOW], weights).mean() for _, record in measures]
        assert result.rows[row]["in_window"] == pytest.approx(np.mean(inside), rel=1e-13)
    assert result.loss == result.decides == result.rows["trained"]["beyond_window"]
    assert result.rows["base"]["beyond_window"] != result.loss


def _weighted(nll, weights):
    first = 100 if weights == "moshi" else 1
    exact = nll.astype(np.float64)
    return (first * exact[0] + exact[1:].sum(0)) / (first + 7)


def test_the_result_does_not_depend_on_the_number_of_ranks(tmp_path):
    validate_over_two_ranks(tmp_path)
    alone = [dataclasses.asdict(measured(tmp_path, SingleProcess(), most)) for most in (7, 1)]
    assert alone[0] != alone[1]
    for rank in range(2):
        *told, stopped = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert told == json.loads(json.dumps(alone))  # With one span rank 1 hears nothing.
        assert re.fullmatch(r"validation on \d/book/\d: no ears", stopped)


def test_layers_are_told_with_their_gates_and_what_they_have_learnt(cache):
    lm = in_training()
    heard = validation(cache, lm)(SingleProcess(), untrained=False)
    (layer,) = CONFIG.ttt.layers
    alpha = lm.get_parameter(f"transformer.layers.{layer}.ttt.alpha").detach()
    assert heard.rows["gate"] == {f"layer_{layer}": pytest.approx(float(alpha.tanh().abs().mean()))}
    assert heard.rows["fast_weight_change"][f"layer_{layer}"] > 0
    assert heard.rows.keys() == {"trained", "curve", "gate", "fast_weight_change"}


def test_what_it_hears_is_what_it_is_given(cache):
    asked = []

    def hear(lm, codes):
        asked.append(codes)
        return HeardSpan(torch.arange(8 * codes.shape[1]).view(8, -1).float(), {1: 0.5})

    lm = in_training()
    spans = (Span(4, "a", 30, "x"), Span(2, "b", 8, "y"))
    result = validation(cache, lm, spans, hear)(SingleProcess(), untrained=False)
    opened = ChapterCache.open(cache)
    assert [each.T.tolist() for each in asked] == [
        opened.read(row, 0, frames).tolist() for row, frames in ((4, 30), (2, 8))
    ]
    # The second span ends within the window: it has no say beyond it.
    rows = [np.arange(8 * 30).reshape(8, 30), np.arange(8 * 8).reshape(8, 8)]
    losses = [_weighted(each, "moshi") for each in rows]
    assert result.loss == pytest.approx(losses[0][WINDOW:].mean())
    assert result.rows["trained"]["in_window"] == pytest.approx(
        (losses[0][:WINDOW].mean() + losses[1].mean()) / 2
    )
    assert result.rows["trained"]["semantic"] == pytest.approx(rows[0][0, WINDOW:].mean())
    assert result.rows["curve"] == {"from_0": pytest.approx(losses[0][:16].mean())}
    assert result.rows["fast_weight_change"] == {"layer_1": 0.5}
    beyond = [row.get("beyond_window") for row in result.by_item["trained"]]
    assert beyond == [pytest.approx(losses[0][WINDOW:].mean()), None]
    assert result.by_item["curve"] == [{"from_0": pytest.approx(losses[0][:16].mean())}, {}]
    assert result.by_item["fast_weight_change"] == [{"layer_1": 0.5}] * 2


def test_a_span_that_cannot_be_heard_ends_the_run_in_a_sentence(cache):
    def hear(lm, codes):
        raise UserError("the loss is no number")

    with pytest.raises(TrainingStopped, match=r"validation on .*: the loss is no number"):
        validation(cache, in_training(), hear=hear)(SingleProcess(), untrained=False)


class _Log(Hook):
    def __init__(self):
        self.results = []

    def on_validation(self, state, result):
        self.results.append((state.step, result))


def test_training_is_validated_and_the_base_measured_once(cache, tmp_path):
    lm = in_training()
    silence = torch.randint(64, (8, 20), generator=torch.Generator().manual_seed(8))
    trainee = MoshiTrainee(lm, CONFIG, validation(cache, lm), silence=silence)
    plain = MoshiTrainee(in_training(), CONFIG, silence=silence)
    log = _Log()
    for learning, name in ((trainee, "with"), (plain, "without")):
        settings = LoopSettings(
            run=str(tmp_path / name),
            plan=plan_of(learning.epochs),
            checkpoint=CheckpointConfig(every_steps=2, every_minutes=None, keep_last=99),
            ema_decay=CONFIG.optim.ema_decay,
        )
        state = train(settings, learning, Windows(SingleProcess()), SingleProcess(), [log])
        assert (state.best_step is None) == (name == "without")
    assert [step for step, _ in log.results] == [0, 3, 5]
    for _, result in log.results:
        assert result.rows["base"] == log.results[0][1].rows["base"]
        assert differences(result.rows)["beyond_window"] == (
            result.loss - result.rows["base"]["beyond_window"]
        )
    assert len({result.loss for _, result in log.results}) == 3
    # To validate changes nothing of what is trained.
    with_it, without = (each.tensors()["model"] for each in (trainee, plain))
    assert all(torch.equal(without[name], tensor) for name, tensor in with_it.items())


# -- which spans -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Chapter:
    chapter_id: str
    speaker: str
    n_frames: int


def chapters(*speakers_and_frames):
    return [
        Chapter(f"{speaker}/{place}", speaker, frames)
        for place, (speaker, frames) in enumerate(speakers_and_frames)
    ]


def test_speakers_take_turns_and_long_chapters_come_first():
    some = chapters(("b", 5), ("a", 70), ("a", 30), ("b", 200), ("c", 9), ("a", 90))
    spans = choose_spans(some, range(6), SpansConfig(span_frames=50, most_spans=5))
    assert [(span.row, span.frames) for span in spans] == [
        (1, 50),
        (3, 50),
        (4, 9),
        (5, 50),
        (0, 5),
    ]
    assert choose_spans(some, [2, 4], SpansConfig(span_frames=50)) == (
        Span(2, "a/2", 30, "a"),
        Span(4, "c/4", 9, "c"),
    )


def test_the_order_of_the_cache_does_not_matter():
    some = chapters(*((f"{n % 5}", 10 * n + 1) for n in range(23)))
    config = SpansConfig(span_frames=90, most_spans=9)
    backwards = list(reversed(some))
    names = [
        [(span.chapter_id, span.frames) for span in choose_spans(each, range(23), config)]
        for each in (some, backwards)
    ]
    assert names[0] == names[1]
    held = [
        {each[row].chapter_id for row in split_speakers(each, 0.4).held_out}
        for each in (some, backwards)
    ]
    assert held[0] == held[1]


@pytest.mark.parametrize(
    "speakers, share, held",
    ((5, 0.2, 1), (5, 0.0, 1), (5, 0.41, 2), (5, 1.0, 4), (2, 0.9, 1), (200, 0.05, 10)),
)
def test_whole_speakers_are_held_out(speakers, share, held):
    some = chapters(*((f"s{n % speakers}", 10) for n in range(3 * speakers)))
    split = split_speakers(some, share)
    sides = [{some[row].speaker for row in rows} for rows in split]
    assert len(sides[1]) == held
    assert not sides[0] & sides[1]
    assert sorted([*split.training, *split.held_out]) == list(range(3 * speakers))
    assert split.held_out.dtype == np.int64


@pytest.mark.parametrize(
    "some, there", ((chapters(("a", 3), ("a", 4)), "one speaker, a"), ([], "no speaker"))
)
def test_one_speaker_cannot_be_on_both_sides(some, there):
    with pytest.raises(UserError, match=f"chapters have {there}: cache chapters of more speakers"):
        split_speakers(some, 0.5)


def test_named_chapters_are_held_out_whoever_speaks():
    some = chapters(("a", 3), ("b", 5), ("a", 4), ("b", 1))
    ids = [each.chapter_id for each in some]
    split = hold_out(some, [ids[2], ids[1]])
    assert split.training.tolist() == [0, 3]
    assert split.held_out.tolist() == [1, 2]
    assert split.held_out.dtype == np.int64
    with pytest.raises(UserError, match=f"is called {ids[3]}x; did you mean {ids[3]}\\?$"):
        hold_out(some, [ids[0], f"{ids[3]}x"])
    with pytest.raises(UserError, match=r"no chapter of the cache is called a$"):
        hold_out([], ["a"])
    with pytest.raises(UserError, match="holds out all 4 chapters of the cache: leave some to"):
        hold_out(some, ids)


def test_spans_that_end_within_the_window_are_refused(cache):
    spans = (Span(0, "a", 12, "x"), Span(1, "b", 9, "y"))
    with pytest.raises(UserError, match="no validation span reaches beyond the 12 frames of the"):
        require_beyond_window(spans, 12)
    with pytest.raises(UserError, match="the longest of 2 has 12 frames; raise span_frames, or"):
        validation(cache, in_training(), spans)
    require_beyond_window(spans, 11)
    with pytest.raises(UserError, match="the longest of 0 has 0 frames"):
        require_beyond_window((), 11)
    for name in ("span_frames", "most_spans"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            SpansConfig(**{name: 0})

"""What differs between two runs is found by one function, for chapters and for pairs alike."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ttt.eval import finished_run, scored_pairs
from ttt.eval.chapters.run import ChapterRun
from ttt.eval.config import StreamSetting
from ttt.eval.differences import (
    difference_lines,
    differing_settings,
    only_models_differ,
    side_names,
    what_is_compared,
)
from ttt.eval.pairs.run import PairRun

Change = Callable[[Any], Any]


def _model(**fields: Any) -> Change:
    return lambda run: replace(run, models=tuple(replace(m, **fields) for m in run.models))


def _config(**keys: Any) -> Change:
    return lambda run: replace(run, provenance={**run.provenance, "config": keys})


def _alike(**fields: Any) -> Change:
    return lambda run: replace(run, **fields)


def _text(run: Any) -> Any:
    if isinstance(run, ChapterRun):
        return replace(run, streams={**run.streams, "text_stream": "pad"})
    return replace(run, settings=(replace(run.settings[0], text="pad"),))


DIFFERENT: list[tuple[Change, str, str]] = [
    (_text, "-> pad", "differ in streams"),
    (_model(fingerprint="cd"), "model.fingerprint:", "Two models"),
    (_model(weights_sha256="f" * 64), "model.weights_sha256: none ->", "Two models"),
    (_model(source="other"), "model.source: tiny -> other", "Two models"),
    (_model(controls={"updates": "off"}), "model.controls.updates: none -> off", "Two models"),
    (_model(ttt={"folder": "b", "sha256": "1"}), "model.ttt.sha256: none -> 1", "Two models"),
    (_alike(mimi={"name": "other", "weights_sha256": "e" * 64}), "codec.name: tiny -> other",
     "differ in codec"),
    (_alike(dtype="float64"), "dtype: float32 -> float64", "differ in precision"),
    (_alike(device="cuda"), "device: cpu -> cuda", "differ in device"),
    (_config(preset="original"), "preset: none -> original", "differ in preset"),
    (_config(data={"root": "/b", "books": None}), "data.root: none -> /b", "differ in data"),
    (_config(max_frames=100), "max_frames: none -> 100", "differ in max_frames"),
    (_config(seed=5), "seed: none -> 5", "differ in seed"),
    (_config(a_key_of_later={"x": [1, 2]}), "a_key_of_later.x: none -> 1, 2",
     "differ in a_key_of_later"),
    (_alike(chunk=8), "no setting differs", "with the same settings"),
    (_config(output="b", cluster={"num_workers": 4}, min_coverage=0.5, chunk=3),
     "no setting differs", "with the same settings"),
    (lambda run: _model(fingerprint="cd")(_text(run)), "streams", "differ in streams and model"),
]  # fmt: skip


def _described(kind: str, folder: Path) -> tuple[Any, str]:
    if kind == "chapters":
        finished_run.write_run(folder, chapters=1, models=("baseline",))
        return ChapterRun.read(folder), "baseline"
    pairs = [scored_pairs.made_pairs(clusters=1)]
    scored_pairs.write_run(folder, {"baseline": scored_pairs.noisy(0)}, pairs)
    return PairRun.read(folder), "baseline-paper"


@pytest.fixture(scope="module", params=["chapters", "pairs"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A description without a configuration, and the name of its records."""
    found, name = _described(request.param, tmp_path_factory.mktemp("run"))
    return replace(found, provenance={**found.provenance, "config": {}}), name


@pytest.mark.parametrize(("change", "line", "heading"), DIFFERENT)
def test_every_setting_that_differs_is_named(
    run: Any, change: Change, line: str, heading: str
) -> None:
    described, name = run
    differing = differing_settings(described, name, change(described), name)
    assert any(line in each for each in difference_lines(differing))
    assert what_is_compared(differing).endswith(heading)
    assert only_models_differ(differing) == ("models" in heading or "same" in heading)
    back = differing_settings(change(described), name, described, name)
    swapped = [{"setting": e["setting"], "first": e["second"], "second": e["first"]} for e in back]
    assert sorted(swapped, key=str) == sorted(differing, key=str)


def test_chunk_and_batch_are_named_where_they_move_a_result(run: Any) -> None:
    described, name = run
    half = replace(described, dtype="bfloat16")
    smaller = replace(half, chunk=8)
    (found,) = differing_settings(half, name, smaller, name)
    assert found == {"setting": "rounding.chunk", "first": 32, "second": 8}
    assert what_is_compared([found]).endswith("differ in chunk or batch")
    assert not differing_settings(described, name, replace(described, chunk=8), name)


def test_another_program_is_named_and_is_no_other_model(run: Any) -> None:
    described, name = run
    versions = {**described.provenance["versions"], "torch": "9.9"}
    other = replace(
        described, provenance={**described.provenance, "git_commit": "f00", "versions": versions}
    )
    differing = differing_settings(described, name, other, name)
    assert [each["setting"] for each in differing] == ["git_commit", "versions.torch"]
    assert what_is_compared(differing) == "Two evaluations with the same settings"
    assert only_models_differ(differing)


def test_settings_of_one_run_over_pairs_differ_in_streams(tmp_path: Path) -> None:
    run, _ = _described("pairs", tmp_path)
    other = StreamSetting(name="seed", text="silence_codes", other="masked", voice="moshi")
    run = replace(run, settings=(*run.settings, other))
    differing = differing_settings(run, "baseline-paper", run, "baseline-seed")
    assert difference_lines(differing) == [
        "streams.text: masked -> silence_codes", "streams.other: silence -> masked",
    ]  # fmt: skip
    assert not only_models_differ(differing)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (("a", "x"), ("a", "y"), ("x", "y")),
        (("r/a", "x"), ("r/b", "x"), ("x (a)", "x (b)")),
        (("r/a/run", "x"), ("r/b/run", "x"), ("x (a/run)", "x (b/run)")),
        (("a/", "x"), ("a", "x"), ("x", "x again")),
        (("run", "x"), ("b/run", "x"), ("x (run)", "x (b/run)")),
    ],
)
def test_names_tell_two_sides_apart(
    first: tuple[str, str], second: tuple[str, str], names: tuple[str, str]
) -> None:
    assert side_names(first, second) == names

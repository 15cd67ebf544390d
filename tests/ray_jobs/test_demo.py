"""The demo: its commands are real, and its page says what the numbers say, whatever they are."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.config.load import load_config
from ray_jobs.config.schema import config_class
from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.reports.demo import build_page
from ray_jobs.reports.examples import Example
from ray_jobs.reports.page import TEMPLATES
from ray_jobs.runtime.demo_steps import steps
from tests.jobs import run_chapters
from tests.ttt.eval.scored_pairs import made_pairs, noisy, write_run
from ttt.eval.pairs.summary import PAIRS
from ttt.eval.rescore import summarize_run
from ttt.records import read_json
from ttt.snac.evaluation.systems import BASELINE, CEILING, FOLDING_HISS, OURS, TRUE

ROOT = Path(__file__).resolve().parents[2]
DECODER = {"verdict": {"kind": "good", "heading": "Better", "sentences": ["By a tenth."]}}
AUDIO = {
    system: np.random.default_rng(seed).integers(-900, 900, 24_000, dtype=np.int16)
    for seed, system in enumerate((TRUE, OURS, BASELINE, FOLDING_HISS, CEILING))
}
EXAMPLES = [Example(f"anna/{rank}.wav", f"rank {rank} of 3", 0.5, AUDIO) for rank in (1, 2, 3)]
LINKS = [f"{part}/report.html" for part in ("evaluation", "effect", "null", "pairs")]
Summaries = tuple[dict, dict]
accuracy_table = TEMPLATES.get_template("pair_parts.html.j2").module.accuracy_table  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> Summaries:
    """Of the demo's two chapter evaluations, in short."""
    found = []
    for name in ("effect", "null"):
        output = tmp_path_factory.mktemp(name) / "out"
        overrides = [
            f"output={output}", "synthetic.chapters=8", "synthetic.speakers=8",
            "synthetic.frames=256", "summary.positions=[64, 128]", "verify_spans=0",
            "cluster.num_workers=0",
            f"model.weights={ROOT}/ttt/assets/tiny_moshi_pair/baseline",
            f"model.ttt={ROOT}/ttt/assets/tiny_moshi_pair/ttt",
        ]  # fmt: skip
        path = ROOT / "configs" / f"chapters_{name}.yaml"
        run_chapters(load_config(EvaluateChaptersConfig, path, overrides))
        found.append(read_json(output / "summary.json"))
    return found[0], found[1]


def page(effect: dict, null: dict) -> str:
    pairs = {"runs": {"baseline-paper": {"metrics": {}}}}
    return build_page(DECODER, effect, null, pairs, LINKS, EXAMPLES)


def test_the_page_opens_with_a_clip_to_see_and_hear(summaries: Summaries) -> None:
    html = page(*summaries)
    clip, words = html.index("anna/2.wav (rank 2 of 3)"), html.index("By a tenth.")
    assert clip < html.index("<audio") < words
    players = re.findall('aria-label="(.*?)" src="data:audio/flac', html)
    assert players == [
        "True 48 kHz", "Codec 24 kHz, resampled", "The same + folding + hiss", "Ours, 48 kHz",
    ]  # fmt: skip
    assert 'alt="Spectrograms of anna/2.wav: True 48 kHz, Codec 24 kHz, resampled, The same' in html


def test_the_two_pictures_come_out_and_the_page_says_so(summaries: Summaries) -> None:
    effect, null = summaries
    html = page(effect, null)
    assert "Beyond the window baseline is flat, and ttt falls" in html
    assert html.count('src="data:image/png;base64,') == 1 + 4
    assert re.findall('href="(.*?)"', html) == LINKS
    assert not re.search(r"https?://", html)
    measured = effect["comparisons"][0]["losses"]["moshi"]["measures"]["beyond_window"]
    assert f"{measured['mean']:.4f} (95 % interval {measured['low']:.4f}" in html
    # The known answers: whoever forgets pays 1.2130 nats, whoever remembers 0.1733, on codebook 0.
    semantic = {name: model["losses"]["semantic"] for name, model in effect["models"].items()}
    assert semantic["baseline"]["positions"]["128"]["mean"] == pytest.approx(1.213, abs=0.02)
    assert semantic["ttt"]["positions"]["128"]["mean"] == pytest.approx(0.1733, abs=0.01)
    # The null control: nothing gained anywhere, and next to no difference from the third round on.
    curve = null["comparisons"][0]["losses"]["moshi"]["curve"]
    assert all(abs(mean) < 0.01 for mean in curve["mean"][2:])
    assert all(high > 0 for high in curve["high"])


def test_a_picture_that_fails_says_so(summaries: Summaries) -> None:
    effect, null = summaries
    html = page(null, effect)  # the effect where there should be none, and the other way round
    assert re.search("Not as expected: baseline is not flat, .*ttt has not less loss", html)
    assert "Not as expected: ttt differs, and paying to find out does not explain it" in html

    rising = copy.deepcopy(effect)
    slope = rising["models"]["baseline"]["losses"]["moshi"]["measures"]["slope_per_doubling"]
    slope.update(mean=-0.05, low=-0.06, high=-0.04)
    assert "Not as expected: baseline is not flat" in page(rising, null)

    assert "No margin was set." in html


def flat_and_equivalent(null: dict) -> dict:
    """The null control as it should be: no slope, no difference beyond the margin."""
    fine = copy.deepcopy(null)
    found = fine["comparisons"][0]["losses"]["moshi"]
    found["equivalence"].update(mean=0.0004, low=-0.0004, high=0.0012, equivalent=True)
    count = len(found["curve"]["low"])
    found["curve"].update(mean=[0.0] * count, low=[-0.1] * count, high=[0.1] * count)
    for model in fine["models"].values():
        slope = model["losses"]["moshi"]["measures"]["slope_per_doubling"]
        slope.update(mean=0.0, low=-0.001, high=0.001)
    return fine


def test_the_null_control_says_what_was_shown_and_no_more(summaries: Summaries) -> None:
    effect, null = summaries
    fine = flat_and_equivalent(null)
    html = page(effect, fine)
    count = len(fine["comparisons"][0]["losses"]["moshi"]["curve"]["low"])
    assert f"No difference found at any of the {count} points; equivalent within 0.002" in html
    assert "Equivalent is not equal" in html

    paying = copy.deepcopy(fine)
    curve = paying["comparisons"][0]["losses"]["moshi"]["curve"]
    curve["low"][1] = curve["mean"][1] = 0.05
    assert curve["frame"][1] < 32
    assert "ttt pays to find out; then equivalent within 0.002 nats from frame 32" in page(
        effect, paying
    )
    curve["low"][-1] = curve["mean"][-1] = 0.05  # long after anything can be found out
    assert "paying to find out does not explain it" in page(effect, paying)

    gaining = copy.deepcopy(fine)
    curve = gaining["comparisons"][0]["losses"]["moshi"]["curve"]
    curve["high"][0] = curve["mean"][0] = -0.05
    assert "paying to find out does not explain it" in page(effect, gaining)


@pytest.mark.parametrize(
    ("point", "mean", "explained"),
    [
        (-1, -0.0019, True),
        (-1, 0.0019, True),
        (1, -0.0019, True),
        (-1, -0.0021, False),
        (-1, 0.0021, False),
        (1, -0.0021, False),
    ],
)
def test_only_the_margin_says_what_counts_as_a_difference(
    summaries: Summaries, point: int, mean: float, explained: bool
) -> None:
    effect, null = summaries
    differing = flat_and_equivalent(null)
    curve = differing["comparisons"][0]["losses"]["moshi"]["curve"]
    curve["mean"][point] = mean
    curve["low"][point], curve["high"][point] = sorted((mean / 2, 2 * mean))
    html = page(effect, differing)
    assert f"by {mean:.4f} nats" in html
    count = len(curve["mean"])
    said = f"Differences at 1 of {count} points, none beyond the margin; equivalent within 0.002"
    assert (said in html) == explained
    assert ("paying to find out does not explain it" in html) != explained


@pytest.mark.parametrize("model", ["baseline", "ttt"])
@pytest.mark.parametrize("ends", [(1e-5, 2e-3), (-2e-3, -1e-5)])
def test_a_slope_where_nothing_can_fall_is_a_fault(
    summaries: Summaries, model: str, ends: tuple[float, float]
) -> None:
    effect, null = summaries
    sloped = flat_and_equivalent(null)
    slope = sloped["models"][model]["losses"]["moshi"]["measures"]["slope_per_doubling"]
    slope.update(mean=sum(ends) / 2, low=ends[0], high=ends[1])
    html = page(effect, sloped)
    assert f"Not as expected: {model} is not flat" in html
    assert f"{model} {sum(ends) / 2:.4f} (95 % interval" in html


@pytest.mark.parametrize("ends", [(-0.001, 0.0021), (-0.0021, 0.001), (0.0025, 0.003)])
def test_equivalence_is_said_only_where_the_interval_is_inside(
    summaries: Summaries, ends: tuple[float, float]
) -> None:
    effect, null = summaries
    unshown = flat_and_equivalent(null)
    found = unshown["comparisons"][0]["losses"]["moshi"]["equivalence"]
    found.update(low=ends[0], high=ends[1], equivalent=False)
    html = page(effect, unshown)
    assert "Not as expected: not shown to be equivalent" in html
    assert "Equivalent within" not in html


def test_without_intervals_nothing_is_claimed(summaries: Summaries) -> None:
    effect, null = copy.deepcopy(summaries)
    for summary in (effect, null):
        found = summary["comparisons"][0]["losses"]["moshi"]
        found["measures"]["beyond_window"].update(low=None, high=None, reason="few")
        nothing = [None] * len(found["curve"]["low"])
        found["curve"].update(low=nothing, high=nothing)
    assert page(effect, null).count("Not as expected: no interval") == 2


def test_accuracies_are_on_the_page(tmp_path: Path) -> None:
    losses = {"baseline": noisy(1), "ttt": noisy(2)}
    pairs = summarize_run(PAIRS, write_run(tmp_path, losses, [made_pairs()]))
    html = accuracy_table(pairs["runs"])
    for run in pairs["runs"].values():
        macro = run["metrics"]["swuggy_dev"]["scores"]["weighted_mean"]["macro"]
        assert f"<div>{100 * macro['mean']:.1f}</div>" in html
        assert f"{100 * macro['low']:.1f} to {100 * macro['high']:.1f}, n = 12" in html


def test_every_step_is_a_command_of_this_repository() -> None:
    for step in steps(Path("somewhere")):
        _, path, *overrides = step.arguments
        load_config(config_class(step.module.removeprefix("ray_jobs.")), ROOT / path, overrides)
        assert step.typed.startswith(f"python -m {step.module} --config {path} ")


def test_every_step_comes_after_those_whose_output_it_reads() -> None:
    planned = steps(Path("somewhere"))
    before: dict[str, set[str]] = {}
    writer: dict[Path, str] = {}
    for step in planned:
        before[step.name] = {*step.after}.union(*(before[name] for name in step.after))
        for word in step.arguments:
            key, _, path = word.partition("=")
            if key in ("output", "run"):
                writer[Path(path)] = step.name
    for step in planned:
        named = [Path(word.partition("=")[2]) for word in step.arguments]
        folders = {folder for path in named for folder in (path, *path.parents)}
        read = {name for folder, name in writer.items() if folder in folders} - {step.name}
        assert read <= before[step.name]
    assert {step.name for step in planned if "cache" in before[step.name]} == {
        "train", "evaluate", "decode",
    }  # fmt: skip


def test_the_demo_says_what_comes_before_it_imports_what_that_costs() -> None:
    found = """
import sys
from pathlib import Path
from ray_jobs.demo import _outlook
from ray_jobs.runtime.demo_steps import steps
print(_outlook(steps(Path("somewhere"))))
print(sorted({"torch", "numpy", "ray", "matplotlib"} & sys.modules.keys()))
"""
    said = subprocess.run(
        [sys.executable, "-c", found], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert re.fullmatch(
        r"\[demo\] 56 clips .* 7 commands, two beside each other; about .* minutes on two cores:",
        said[0],
    )
    modules = [step.module.removeprefix("ray_jobs.") for step in steps(Path("somewhere"))]
    assert [line.split()[0] for line in said[1:-1]] == modules
    assert said[-1] == "[]"

"""The page of an evaluation of pairs: comparisons, accuracies, strata, coverage, origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ray_jobs import report
from ray_jobs.chapter_facts import (
    cell,
    differences_table,
    interval_words,
    note,
    number,
    paragraph,
)
from ray_jobs.p_values import LEAST_EXPLAINED, p_cells
from ray_jobs.pair_facts import caveats, coverage, origin, silence_section
from ray_jobs.report import Markup
from ttt.eval.pairs import task_title
from ttt.eval.run_differences import only_models_differ, what_is_compared

_POINTS = 100.0
_Summary = Mapping[str, Any]


def build_report(
    summary: _Summary, pictures: Mapping[str, bytes], silence: bytes | None = None
) -> str:
    """The whole page; the arguments are those of `sections`."""
    shown = sections(summary, pictures, silence)
    return report.page("Moshi on pairs", *shown, subtitle=subtitle(summary))


def subtitle(summary: _Summary) -> str:
    """Who was asked what."""
    tasks = summary["run"]["tasks"]
    pairs = sum(task["pairs"] for task in tasks)
    titles = ", ".join(task_title(task["task"]) for task in tasks)
    return f"{', '.join(summary['runs'])}: {pairs:,} pairs of {titles}"


def sections(
    summary: _Summary, pictures: Mapping[str, bytes], silence: bytes | None = None
) -> list[Markup]:
    """All of the page below its heading, from `rescore`'s summary.

    Args:
        pictures: PNGs by the names of `ttt.eval.pair_plots`.
        silence: FLAC of what the codes of silence sound like; None leaves it out.
    """
    run, runs = summary["run"], summary["runs"]
    return [
        *(report.callout("bad", "Read with care", paragraph(t)) for t in summary["warnings"]),
        *(verdict(compared) for compared in summary["comparisons"] if compared["metrics"]),
        _tiles(runs),
        accuracies(runs, pictures),
        *comparisons(summary, pictures),
        *_strata(runs, pictures),
        _other_scores(runs),
        caveats(),
        *silence_section(silence),
        coverage(runs),
        origin(run),
    ]


def headline_words(summary: _Summary) -> list[str]:
    """A line per model, setting and metric, and per warning."""
    lines = [f"warning: {text}" for text in summary["warnings"]]
    for key, run in summary["runs"].items():
        for name, metric in run["metrics"].items():
            counted = _headline(metric)
            accuracy = number(_points(counted["macro"]["mean"]), 1)
            interval = interval_words(_scaled(counted["macro"]), 1)
            ties = f", {counted['ties']:,} ties" if counted["ties"] else ""
            lines.append(f"{key}: {name} {accuracy} ({interval}, {counted['pairs']:,} pairs{ties})")
        for name, task in run["tasks"].items():
            if task["scored"] < task["planned"]:
                lost = task["planned"] - task["scored"]
                lines.append(f"{key}: {lost:,} pairs of {name} have no score, see the report")
    return lines


def accuracy_table(runs: Mapping[str, Any]) -> Markup:
    """A row per model and setting, a column per benchmark; a dash where nothing was scored."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run["metrics"]))
    rows = []
    for key, run in runs.items():
        metrics = [run["metrics"].get(name) for name in names]
        cells = [cell(_headline(m)["macro"], 1, scale=_POINTS) if m else "–" for m in metrics]
        rows.append([key, *cells])
    return report.table(["Accuracy in per cent", *names], rows)


def verdict(compared: Mapping[str, Any]) -> Markup:
    """Which of the two is right more often, metric by metric."""
    second, first = compared["second"], compared["first"]
    kinds, sentences = set(), []
    for metric in compared["metrics"].values():
        row = metric["scores"][metric["score"]]["accuracy"]
        if row["mean"] is None or row["low"] is None:
            kind, text = "open", f"cannot be judged ({row['reason']})"
        elif row["low"] > 0:
            kind, text = "more", "right more often"
        elif row["high"] < 0:
            kind, text = "less", "right less often"
        else:
            kind, text = "open", "cannot be told apart"
        kinds.add(kind)
        points = "" if row["mean"] is None else f"{_POINTS * row['mean']:+.2f} points, "
        sentences.append(f"{_name(metric)}: {text}; {points}{interval_words(_scaled(row), 2)}.")
    if not only_models_differ(compared["differs"]):
        what = what_is_compared(compared["differs"])
        sentences.insert(0, f"{what}: the difference need not be the models'.")
    judged = {("more",): "good", ("less",): "bad"}
    kind = judged.get(tuple(sorted(kinds)), "mixed")
    return report.callout(kind, f"{second} against {first}", *map(paragraph, sentences))


def _tiles(runs: Mapping[str, Any]) -> Markup:
    return report.tiles(
        (
            f"{key}: {_name(metric)}",
            number(_points(_headline(metric)["macro"]["mean"]), 1),
            interval_words(_scaled(_headline(metric)["macro"]), 1),
        )
        for key, run in runs.items()
        for metric in run["metrics"].values()
    )


def accuracies(runs: Mapping[str, Any], pictures: Mapping[str, bytes]) -> Markup:
    """A row per benchmark and run, with the picture of all."""
    rows = []
    for key, run in runs.items():
        for metric in run["metrics"].values():
            counted = _headline(metric)
            rows.append(
                [
                    f"{_name(metric)} ({key})",
                    cell(counted["macro"], 1, scale=_POINTS),
                    cell(counted["micro"], 1, scale=_POINTS),
                    f"{counted['clusters']:,}",
                    f"{counted['ties']:,}",
                    f"{counted['near_ties']:,}",
                ]
            )
    header = [
        "Benchmark", "accuracy", "over pairs", "words or sentences", "ties",
        "near ties",
    ]  # fmt: skip
    explained = (
        "Accuracy in per cent: the mean over the voices of a word or sentence, then over these, as "
        "ZeroSpeech has it; a tie is half right, and 50 is chance. Intervals (95 %) are Clopper "
        "and Pearson's for as many independent answers as the words or sentences are worth, whose "
        "voices resemble each other. Near ties are closer than 1e-6 nats."
    )
    picture = _picture(pictures, "accuracy", "accuracies with their intervals")
    return report.section(
        "Accuracy", *picture, report.table(header, rows), note(explained), id_="accuracy"
    )


def comparisons(
    summary: _Summary, pictures: Mapping[str, bytes], *, differs: bool = True
) -> Iterator[Markup]:
    """Every comparison's numbers, and before them what `differs`; nothing without comparisons."""
    parts = []
    header = ["Benchmark", "difference", "p", "p (Holm)", "gained", "lost", "nats", "pairs"]
    for compared in summary["comparisons"]:
        rows = []
        for metric in compared["metrics"].values():
            row = metric["scores"][metric["score"]]
            rows.append(
                [
                    _name(metric),
                    cell(row["accuracy"], 2, scale=_POINTS),
                    *p_cells(row["accuracy"]),
                    f"{row['gained']:,}",
                    f"{row['lost']:,}",
                    cell(row["margin"], 4),
                    f"{metric['pairs']:,}",
                ]
            )
        title = f"{compared['second']} minus {compared['first']}"
        parts.append(report.tag("h3", title))
        parts += [differences_table(compared)] if differs else []
        parts.append(report.table(header, rows))
    if parts:
        explained = (
            "Paired: the same pairs and codes. Points of accuracy; nats say by how much more the "
            "right recording is preferred. p: Wilcoxon's test on the differences by word or "
            "sentence; Holm's adjustment covers one table. "
            f"{LEAST_EXPLAINED}"
        )
        picture = _picture(pictures, "difference", "differences with their intervals")
        yield report.section("Comparison", *picture, *parts, note(explained), id_="comparison")


def _strata(runs: Mapping[str, Any], pictures: Mapping[str, bytes]) -> Iterator[Markup]:
    names = dict.fromkeys(name for run in runs.values() for name in run["metrics"])
    for name in names:
        of_run = {key: r["metrics"][name] for key, r in runs.items() if name in r["metrics"]}
        title = _name(next(iter(of_run.values())))
        tables = [
            report.table([stratum, *of_run], _stratum_rows(of_run, stratum))
            for stratum in next(iter(of_run.values()))["strata"]
        ]
        if tables:
            picture = _picture(pictures, f"strata_{name}", f"accuracies of {title} by stratum")
            yield report.section(f"{title} by stratum", *picture, *tables, id_=f"strata-{name}")


def _stratum_rows(of_run: Mapping[str, Any], stratum: str) -> list[list[str]]:
    groups = dict.fromkeys(
        group for metric in of_run.values() for group in metric["strata"][stratum]
    )
    return [
        [
            group,
            *(
                cell(metric["strata"][stratum][group]["macro"], 1, scale=_POINTS)
                if group in metric["strata"][stratum]
                else "–"
                for metric in of_run.values()
            ),
        ]
        for group in groups
    ]


def _other_scores(runs: Mapping[str, Any]) -> Markup:
    names = list(next(iter(runs.values()))["metrics"].values())
    scores = list(names[0]["scores"]) if names else []
    rows = [
        [
            f"{_name(metric)} ({key})",
            *(cell(metric["scores"][score]["macro"], 1, scale=_POINTS) for score in scores),
        ]
        for key, run in runs.items()
        for metric in run["metrics"].values()
    ]
    explained = (
        "The same records under other likelihoods; only the headline was chosen beforehand. Means "
        "are per frame, sums are not; endings begin where the two recordings differ."
    )
    header = ["Benchmark", *(score.replace("_", " ") for score in scores)]
    return report.section("Other scores", report.table(header, rows), note(explained), id_="scores")


def _picture(pictures: Mapping[str, bytes], name: str, alt: str) -> list[Markup]:
    return [report.picture(pictures[name], alt)] if name in pictures else []


def _name(metric: Mapping[str, Any]) -> str:
    """The benchmark, and its split where it has several."""
    title = task_title(metric["task"])
    return title if metric["split"] == "all" else f"{title} {metric['split']}"


def _headline(metric: Mapping[str, Any]) -> Mapping[str, Any]:
    return metric["scores"][metric["score"]]


def _points(value: float | None) -> float | None:
    return None if value is None else _POINTS * value


def _scaled(interval: Mapping[str, Any]) -> dict[str, Any]:
    """In points, for words."""
    return {**interval, **{edge: _points(interval[edge]) for edge in ("mean", "low", "high")}}

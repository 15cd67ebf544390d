"""All summaries of a run from its stored records: no model, no audio, no Ray.

`rescore(kind, folder)` writes summary.json, legacy.json and plots/. A kind of evaluation says how
the records of one name are read, what they come to, and how two names compare; everything else is
the same for all kinds. Two finished runs are set against each other by `ttt.eval.paired`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ttt import storage
from ttt.config import Config
from ttt.eval.differences import differing_settings
from ttt.eval.drawn import draw_plots
from ttt.eval.figures import Figures
from ttt.eval.run import Run
from ttt.records import write_json

R = TypeVar("R", bound=Run)
C = TypeVar("C", bound=Config)
M = TypeVar("M")


class Kind(ABC, Generic[R, C, M]):
    """A kind of evaluation: its description R, summary configuration C and measures M of a name."""

    RUN: ClassVar[type[Run]]
    NOUN: ClassVar[str]
    """What a name stands for: summary.json has the numbers of all names under its plural."""
    SIDE: ClassVar[str]
    """What comparison.json calls the name of one of its sides."""

    @abstractmethod
    def measure(self, folder: str | Path, run: R, name: str, config: C) -> M:
        """What the records of a name hold. Raises UserError where one is damaged."""

    @abstractmethod
    def numbers(self, measured: M, config: C) -> dict[str, Any]:
        """Means with their intervals."""

    @abstractmethod
    def account(self, folder: str | Path, run: R, name: str, measured: M) -> dict[str, Any]:
        """What was covered, what was left out and why, and at what effort."""

    @abstractmethod
    def compare(self, first: M, second: M, config: C, *, strict: bool) -> dict[str, Any]:
        """The paired difference, second minus first.

        Where not `strict`, only what both have so far is compared. Raises UserError where items or
        codes differ.
        """

    @abstractmethod
    def legacy(self, run: R, numbers: dict[str, Any]) -> dict[str, Any]:
        """The original evaluation's keys, from what `numbers` gave for a name."""

    @abstractmethod
    def figures(self, summary: dict[str, Any]) -> Figures:
        """What is drawn of a summary, by name."""

    def warnings(self, run: R, name: str, measured: M) -> list[str]:
        """What must be said of a name's records beside the run's own warnings."""
        return []


def rescore(kind: Kind[Any, C, Any], folder: str | Path, config: C | None = None) -> dict[str, Any]:
    """Compute everything again, write summary.json, legacy.json and plots/, return the summary.

    legacy.json has the figures of the headline's name at the top, then those of every name. Args
    and errors are those of `summarize_run`.
    """
    run: Run = kind.RUN.read(folder)
    summary = summarize_run(kind, folder, config)
    names = summary[f"{kind.NOUN}s"]
    figures = {name: kind.legacy(run, numbers) for name, numbers in names.items()}
    notes = {"warnings": summary["warnings"]} if summary["warnings"] else {}
    headline = {**figures[run.headline], kind.NOUN: run.headline, f"{kind.NOUN}s": figures}
    write_json(storage.join(folder, "summary.json"), summary)
    write_json(storage.join(folder, "legacy.json"), {**headline, **notes})
    draw_plots(folder, summary, kind.figures(summary))
    return summary


def summarize_run(
    kind: Kind[Any, C, Any], folder: str | Path, config: C | None = None
) -> dict[str, Any]:
    """The summary of a run as its records stand, finished or not; writes nothing.

    Args:
        config: other settings than the run's own.

    Raises:
        UserError: not a run's folder, or a record is damaged.
    """
    run: Any = kind.RUN.read(folder)
    settings: C = run.summary if config is None else config
    measured = {name: kind.measure(folder, run, name, settings) for name in run.names}
    told = [text for name, each in measured.items() for text in kind.warnings(run, name, each)]
    return {
        "run": {**asdict(run), "summary": settings.to_dict()},
        "warnings": [*run.warnings, *told],
        f"{kind.NOUN}s": {
            name: {**kind.numbers(each, settings), **kind.account(folder, run, name, each)}
            for name, each in measured.items()
        },
        "comparisons": [
            {
                "first": first,
                "second": second,
                "differs": differing_settings(run, first, run, second),
                **kind.compare(measured[first], measured[second], settings, strict=False),
            }
            for first, second in _compared(run)
        ],
    }


def _compared(run: Run) -> Sequence[tuple[str, str]]:
    """Every name behind its reference."""
    pairs = [(run.reference(name), name) for name in run.names]
    return [(first, second) for first, second in pairs if first is not None]

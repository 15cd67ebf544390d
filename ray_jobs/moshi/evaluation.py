"""An evaluation of Moshi from plan to report: what is missing is dispatched, the rest recomputed.

The body of both evaluations; a kind of evaluation, such as that of chapters, is a `Job`. OUTPUT
holds what `ttt.eval.run` lists, and besides

    config.yaml provenance.json   of the run
    codes/                        codes of the recordings, unless codes_cache says where else
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Ask, Session, worker_session
from ray_jobs.runtime.progress import Progress
from ray_jobs.runtime.run_folder import refuse_changed_config, refuse_changed_run
from ttt import records, storage
from ttt.errors import UserError
from ttt.eval.rescore import Kind, rescore
from ttt.eval.run import ModelIdentity, Run
from ttt.files.errors import FileIdentity

P = TypeVar("P")
"""A plan: given, config, work and pending()."""
Record = Callable[[Any, Any], dict[str, object]]
"""record(item, outcome): keeps what became of an item; returns what progress says from then on."""


@dataclass(frozen=True)
class Recorded:
    """What a record was made of."""

    what: str
    since: str
    """What it must not have changed since."""
    files: Sequence[Path]
    noted: Sequence[FileIdentity]
    """The files as they were then; empty where nobody noted them."""
    path: Path
    """The record."""
    now: Sequence[FileIdentity] | None = None
    """What `noted` must still be, where that is known without reading the files."""


class Job(ABC, Generic[P]):
    """What a kind of evaluation gives to its driver."""

    kind: Kind[Any, Any, Any]
    COMMAND: ClassVar[str]
    """Of ray_jobs, that runs it."""
    WORK: ClassVar[tuple[str, str, str]]
    """The worker's method for an item, the word for it, and the units it is counted in."""
    RECORDS: ClassVar[str]
    """What its records are called."""
    FINISHED: ClassVar[str]
    """What is said of a run in which nothing is missing."""

    @property
    @abstractmethod
    def worker(self) -> type:
        """The class of its workers, made of a configuration and a `Count`."""

    @abstractmethod
    def units(self, plan: P, item: Any) -> int:
        """How much work an item is."""

    @abstractmethod
    def planned(self, plan: P) -> Sequence[Any]:
        """What is asked, as run.json has it."""

    @abstractmethod
    def recorded(self, plan: P) -> Iterator[Recorded]:
        """Every record that is there, with the audio it was made of."""

    @abstractmethod
    def describe_run(self, plan: P, ask: Ask) -> Run:
        """run.json, with what a worker says of models and codec."""

    @abstractmethod
    def recording(self, plan: P, missing: Sequence[Any]) -> Record:
        """What keeps outcomes while `missing` is worked on."""

    @abstractmethod
    def page(self, folder: Path, summary: dict[str, Any]) -> str:
        """report.html."""

    @abstractmethod
    def closing_words(self, summary: dict[str, Any]) -> list[str]:
        """What is printed at the end."""

    @abstractmethod
    def low_coverage(self, config: Any, summary: dict[str, Any]) -> Iterator[str]:
        """A sentence for whatever has a smaller share of its records than `min_coverage`."""

    @abstractmethod
    def begin(self, plan: P, ask: Ask | None) -> None:
        """What is written with run.json; `ask` is None where nothing is missing."""

    def extras_are_there(self, plan: P) -> bool:
        """Whether nothing is wanted of a worker beside records."""
        return True


def evaluate(job: Job[Any], plan: Any, invocation: Invocation) -> None:
    """Do what has no record yet, and write the run's folder.

    Raises UserError before workers start for what does not fit, and at the end, with everything
    written, when there are fewer records than `min_coverage` wants.
    """
    config, output = plan.config, Path(plan.config.output)
    if invocation.resume:
        refuse_changed_config(plan.given, output)
    with run_folder.claim(config.output, plan.given, resume=invocation.resume) as begin:
        if invocation.resume:
            refuse_replaced_audio(job, plan)
        missing = plan.pending()
        if missing or not job.extras_are_there(plan) or not (output / "run.json").exists():
            wanted = len(missing)
            with worker_session(config.cluster, invocation.address, wanted=wanted) as session:
                _run(job, plan, missing, session, begin)
        else:
            print(f"{output}: {job.FINISHED}")
            _keep(job, plan, begin)
        summary = write_results(job, output, config)
    lines = [*job.closing_words(summary), f"report: {output}/report.html"]
    print("\n".join(lines), flush=True)
    for sentence in job.low_coverage(config, summary):
        raise UserError(sentence)


def write_results(job: Job[Any], folder: Path, config: Any = None) -> dict[str, Any]:
    """Recompute summary.json, legacy.json, plots and report.html of a run; returns the summary."""
    summary = rescore(job.kind, folder, None if config is None else config.summary)
    storage.write_bytes(folder / "report.html", job.page(folder, summary).encode())
    return summary


def refuse_replaced_audio(job: Job[Any], plan: Any) -> None:
    """Raise UserError where audio is not what a record was made of.

    The same name and length do not make the same recording. Records of before the files were noted
    stand, and that is said.
    """
    output, unknown = plan.config.output, 0
    is_same = functools.cache(lambda noted, file: file.exists() and noted.is_of(file))
    for each in job.recorded(plan):
        unknown += not each.noted
        if each.now is not None:
            same = tuple(each.noted) == tuple(each.now)
        else:
            same = len(each.noted) == len(each.files) and all(map(is_same, each.noted, each.files))
        if each.noted and not same:
            others = f" (and {len(each.files) - 1} more)" if len(each.files) > 1 else ""
            raise UserError(
                f"{output}: {each.what} has changed since {each.since}; choose another output for "
                f"a new run, bring {each.files[0]}{others} back, or delete the {job.RECORDS} made "
                f"of it (the first is in {each.path}) to have it heard again"
            )
    if unknown:
        print(
            f"{output}: {unknown:,} {job.RECORDS} do not say of which files they are, as "
            f"{job.RECORDS} of before did not; they are taken to be of these"
        )


def identities(ask: Ask, named: Sequence[Any]) -> tuple[ModelIdentity, ...]:
    """What a worker says of the models.

    Last to first: it is then left with the one that is wanted first.
    """
    return tuple([ask("identify", each) for each in reversed(named)][::-1])


def shared_description(config: Any, ask: Ask) -> dict[str, Any]:
    """The fields of run.json that are found in the same way for every kind of evaluation."""
    return {
        "mimi": ask("identify_codec"),
        "seed": config.seed,
        "device": config.cluster.device,
        "dtype": config.model.dtype,
        "chunk": config.chunk,
        "summary": config.summary,
        "provenance": records.provenance(config),
    }


def _keep(job: Job[Any], plan: Any, begin: Callable[[], None]) -> None:
    """See that a finished run was asked what is planned; write run.json for its summary."""
    output = Path(plan.config.output)
    run = job.kind.RUN.read(output)
    now = {run.ITEMS: [asdict(each) for each in job.planned(plan)]}
    refuse_changed_run(asdict(run), now, (run.ITEMS,), output)
    begin()
    replace(run, summary=plan.config.summary).write(output)
    job.begin(plan, None)


def _run(
    job: Job[Any], plan: Any, missing: Sequence[Any], session: Session, begin: Callable[[], None]
) -> None:
    """Start workers, see that models and items are those of the run, do what is missing."""
    method, word, unit = job.WORK
    total, ahead = (sum(job.units(plan, w) for w in works) for works in (plan.work, missing))
    fields: dict[str, object] = {}
    with (
        Progress(word, total, unit, done=total - ahead) as progress,
        session.exporting(progress, job.COMMAND, plan.config.output),
        session.counting(progress, fields) as count,
        session.workers(job.worker, plan.config, count) as workers,
    ):
        workers.prepare(lambda ask: _prepare(job, plan, ask, begin), progress)
        record = job.recording(plan, missing)
        for item, outcome in workers.each(method, missing, progress=progress):
            fields |= record(item, outcome)


def _prepare(job: Job[Any], plan: Any, ask: Ask, begin: Callable[[], None]) -> None:
    """Write run.json, once it is known to be that of the run that goes on."""
    output = Path(plan.config.output)
    run = job.describe_run(plan, ask)
    if (output / "run.json").exists():
        before = asdict(job.kind.RUN.read(output))
        refuse_changed_run(before, asdict(run), ("models", run.ITEMS, "mimi", "device"), output)
    begin()
    run.write(output)
    job.begin(plan, ask)

"""run.json: what an evaluation of chapters was, so that its numbers can be traced and recomputed.

A run's folder holds

    run.json                               this description
    records/<model>/<chapter id>.parquet   every frame's loss, see chapters.records
    failures.jsonl                         {"model", "chapter_id", "reason"} per failed chapter
    verification.jsonl                     a group of chapters compared with stepping per line, or
                                           the "error" that kept it away
    summary.json legacy.json plots/ report.html    recomputed by `rescore` from the above
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ttt import storage
from ttt.errors import UserError
from ttt.eval.config import LongContextConfig
from ttt.records import read_json, write_json

_NAME = "run.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """One of the models of a run."""

    model: str
    """Its name in this run, such as baseline or ttt."""
    source: str
    """Repository or folder of the base model."""
    fingerprint: str
    """Of the base model's weights."""
    weights_sha256: str | None
    """Of the base model's file; None for a model without one."""
    context: int
    """Frames that attention reaches back."""
    ttt: dict[str, Any] | None = None
    """The TTT layers: folder, layers, configuration, hash; None for the baseline."""
    controls: dict[str, Any] = field(default_factory=dict)
    """Controls in force, such as updates off."""

    def described(self) -> dict[str, Any]:
        """All of it but the name, see `ttt.eval.differences`."""
        return {key: value for key, value in asdict(self).items() if key != "model"}


@dataclass(frozen=True, kw_only=True)
class PlannedChapter:
    """A chapter that the run was to evaluate."""

    chapter_id: str
    speaker: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """Everything that identifies a run's numbers."""

    models: tuple[ModelIdentity, ...]
    """Which of them are compared is `reference`'s to say."""
    chapters: tuple[PlannedChapter, ...]
    mimi: dict[str, str]
    """Name and weights_sha256 of the codec."""
    seed: int
    device: str
    dtype: str
    chunk: int
    """Steps per forward pass; part of a result's identity in bfloat16."""
    batch: int
    """Chapters evaluated together."""
    streams: dict[str, str]
    """What the text and the other voice were: text_stream, other_stream, stream."""
    summary: LongContextConfig
    """How the records are summarised."""
    provenance: dict[str, Any]
    """Of `records.provenance`: configuration and its digest, versions, commit, machine."""
    warnings: tuple[str, ...] = ()
    """What every output of this run must say, such as that it reproduces faults on purpose."""

    def write(self, folder: str | Path) -> None:
        """Write FOLDER/run.json."""
        described = {"format": _FORMAT, **asdict(self), "summary": self.summary.to_dict()}
        write_json(storage.join(folder, _NAME), described)

    @classmethod
    def read(cls, folder: str | Path) -> RunDescription:
        """Read FOLDER/run.json. Raises UserError when it is missing or not readable."""
        path = storage.join(folder, _NAME)
        try:
            fields = read_json(path)
            if fields.pop("format") != _FORMAT:
                raise ValueError(f"format is not {_FORMAT}")
            summary = {**fields["summary"], "positions": tuple(fields["summary"]["positions"])}
            return cls(
                **{
                    **fields,
                    "models": tuple(ModelIdentity(**model) for model in fields["models"]),
                    "chapters": tuple(PlannedChapter(**item) for item in fields["chapters"]),
                    "warnings": tuple(fields["warnings"]),
                    "summary": LongContextConfig(**summary),
                }
            )
        except FileNotFoundError as error:
            raise UserError(
                f"{folder}: not the folder of a chapter evaluation, no {_NAME}"
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not a readable description of a run ({error})") from error

    @property
    def headline(self) -> str:
        """The model that the run is about: the last of those under the fewest controls."""
        fewest = min(len(model.controls) for model in self.models)
        return [each.model for each in self.models if len(each.controls) == fewest][-1]

    def reference(self, name: str) -> str | None:
        """The model that this one is compared with; None for the first of the run.

        A control is held against the model that it controls, every other model against the first.
        """
        model = next(each for each in self.models if each.model == name)
        alike = [each for each in self.models if (each.ttt is None) == (model.ttt is None)]
        controlled = min(alike, key=lambda each: len(each.controls))
        found = self.models[0] if len(controlled.controls) == len(model.controls) else controlled
        return None if found is model else found.model

    def described(self, name: str) -> dict[str, Any]:
        """What made the records of one model, see `ttt.eval.differences`."""
        model = next(each for each in self.models if each.model == name)
        return {
            "streams": self.streams,
            "model": model.described(),
            "codec": self.mimi,
            "device": self.device,
            "dtype": self.dtype,
            "rounding": {"chunk": self.chunk, "batch": self.batch},
        }

    def records_root(self, folder: str | Path, model: str) -> Path:
        """The folder of one model's records."""
        return storage.local_path(folder) / "records" / model


def write_summary(
    folder: str | Path,
    summary: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Any]],
    headline: tuple[str, str],
    plots: Mapping[str, bytes],
) -> None:
    """Write summary.json, legacy.json and plots/ of a run, of chapters or of pairs.

    Args:
        figures: by name what has the original's keys; legacy.json holds all of them.
        headline: what is named (model, run), and the name whose figures stand at the top.
    """
    kind, name = headline
    notes = {"warnings": summary["warnings"]} if summary["warnings"] else {}
    legacy = {**figures[name], kind: name, f"{kind}s": figures, **notes}
    write_json(storage.join(folder, "summary.json"), summary)
    write_json(storage.join(folder, "legacy.json"), legacy)
    for plot, content in plots.items():
        storage.write_bytes(storage.join(folder, "plots", plot), content)


def refuse_other_rounding(
    first: tuple[str | Path, Mapping[str, Any]],
    second: tuple[str | Path, Mapping[str, Any]],
    names: Sequence[str],
) -> None:
    """Raise UserError where two runs, one of them in bfloat16, were not computed alike.

    Args:
        first, second: folder and description's fields of each.
        names: further fields that are part of a result in bfloat16.
    """
    (one, ours), (other, theirs) = first, second
    if "bfloat16" not in (ours["dtype"], theirs["dtype"]):
        return
    for name in ("dtype", "device", *names):
        if ours[name] != theirs[name]:
            raise UserError(
                f"{one} and {other} cannot be compared: {name} is {ours[name]} in the first and "
                f"{theirs[name]} in the second, and in bfloat16 it is part of the result; run one "
                f"of them again with the other's {name}"
            )

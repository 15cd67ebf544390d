"""What two evaluations, of chapters or of pairs, were told differently: setting by setting.

A difference of numbers is a difference of models only where nothing else differs. What is compared
is all that a run's description says of one model's records: streams, model, codec, precision, then
the rest of the configuration and what computed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

_WITHOUT_EFFECT = (
    "output", "cluster", "summary", "min_coverage", "verify_spans", "state_every_frames",
    "codes_cache", "pairs_per_shard", "silence_seconds",
)  # fmt: skip
"""Keys of configurations on which no record depends."""
_DESCRIBED = (
    "model", "streams", "against", "controls", "chunk", "group_size", "batch_items", "batch_frames",
)  # fmt: skip
"""Keys that `DescribedRun.described` tells better: what lay behind them."""
_ROUNDING = "rounding"
_PROGRAM = ("git_commit", "versions")
_WORDS = {"dtype": "precision", "synthetic": "data", _ROUNDING: "chunk or batch"}


class DescribedRun(Protocol):
    """The description of a run, of chapters or of pairs."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Of `records.provenance`."""
        ...

    def described(self, name: str) -> dict[str, Any]:
        """What made the records of this name, as a tree: streams, model, codec and so on."""
        ...


def differing_settings(
    first: DescribedRun, first_name: str, second: DescribedRun, second_name: str
) -> list[dict[str, Any]]:
    """Every setting that differs between the records of two names, as setting, first, second.

    None stands for a setting that is off, or that one of the two does not know. What only moves
    rounding (chunk, batch) is told where one of the two is in bfloat16: there it moves the result.
    """
    one, other = (dict(entries(_settings(*side))) for side in (
        (first, first_name), (second, second_name)
    ))  # fmt: skip
    exact = "bfloat16" not in (one.get("dtype"), other.get("dtype"))
    return [
        {"setting": key, "first": one.get(key), "second": other.get(key)}
        for key in {**one, **other}
        if one.get(key) != other.get(key) and not (exact and _kind(key) == _ROUNDING)
    ]


def what_is_compared(differing: Sequence[Mapping[str, Any]]) -> str:
    """A heading: two models only where nothing but the model differs."""
    kinds = dict.fromkeys(_kind(each["setting"]) for each in differing)
    told = dict.fromkeys(_WORDS.get(kind, kind) for kind in kinds if kind not in _PROGRAM)
    if not told:
        return "Two evaluations with the same settings"
    if list(told) == ["model"]:
        return "Two models"
    *others, last = told
    return f"Two evaluations that differ in {', '.join(others)}{' and ' * bool(others)}{last}"


def only_models_differ(differing: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a difference of numbers can be the models' alone."""
    return {_kind(each["setting"]) for each in differing} <= {"model", *_PROGRAM}


def difference_lines(differing: Sequence[Mapping[str, Any]]) -> list[str]:
    """`setting: first -> second` each, or one line that says that there is none."""
    if not differing:
        return ["no setting differs"]
    return [f"{e['setting']}: {shown(e['first'])} -> {shown(e['second'])}" for e in differing]


def shown(value: Any) -> str:
    """A setting's value in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def entries(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, in order; an empty tree has none."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from entries(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", list(value) if isinstance(value, tuple) else value


def side_names(first: tuple[str, str], second: tuple[str, str]) -> tuple[str, str]:
    """Two names that differ, from (run, name) each: with the run in brackets where needed."""
    (run, name), (other_run, other_name) = first, second
    if name != other_name:
        return name, other_name
    if run.rstrip("/") == other_run.rstrip("/"):
        return name, f"{name} again"
    parts, other_parts = PurePath(run).parts, PurePath(other_run).parts
    for depth in range(1, max(len(parts), len(other_parts)) + 1):
        short, other_short = "/".join(parts[-depth:]), "/".join(other_parts[-depth:])
        if short != other_short:
            return f"{name} ({short})", f"{name} ({other_short})"
    return f"{name} ({run})", f"{name} ({other_run})"


def _settings(run: DescribedRun, name: str) -> dict[str, Any]:
    config = run.provenance.get("config") or {}
    rest = {k: v for k, v in config.items() if k not in (*_WITHOUT_EFFECT, *_DESCRIBED)}
    return {
        **run.described(name),
        **rest,
        **{key: run.provenance.get(key) for key in _PROGRAM},
    }


def _kind(setting: str) -> str:
    return setting.partition(".")[0]

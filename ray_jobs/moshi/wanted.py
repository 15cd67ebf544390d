"""The models that an evaluation asks for, by name: what a plan says of them without loading any."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from ray_jobs.moshi.chapters.config import EvaluateChaptersConfig
from ray_jobs.moshi.config import ChapterModelsConfig, InnerControlsConfig
from ray_jobs.moshi.pairs.config import EvaluatePairsConfig
from ttt import storage
from ttt.eval.config import ChapterConfig
from ttt.layers import InnerControls

Weights = Literal["baseline", "ttt"]
C = TypeVar("C", EvaluateChaptersConfig, EvaluatePairsConfig)


def wanted_weights(config: ChapterModelsConfig) -> list[Weights]:
    """The models that a configuration asks for, the baseline first."""
    wanted: list[Weights] = ["baseline"] if config.baseline else []
    return [*wanted, "ttt"] if config.ttt is not None else wanted


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """One model of a run: weights, and what a control does to how its TTT layers learn."""

    name: str
    weights: Weights
    inner: InnerControls = field(default_factory=InnerControls)

    @property
    def controls(self) -> dict[str, Any]:
        """The controls in force, for run.json."""
        return self.inner.described()


def named_models(config: ChapterModelsConfig, controls: InnerControlsConfig) -> list[NamedModel]:
    """The models that a configuration asks for, then one for every control of the inner loop."""
    plain = [NamedModel(name=name, weights=name) for name in wanted_weights(config)]
    known = {
        "updates_off": ("updates-off", InnerControls(updates=False)),
        "ascent": ("ascent", InnerControls(ascent=True)),
        "query_is_key": ("query-is-key", InnerControls(query_is_key=True)),
        "inner_steps": (
            f"inner-steps-{controls.inner_steps}",
            InnerControls(inner_steps=controls.inner_steps or 1),
        ),
    }
    chosen = [known[key] for key in controls.of_inner_loop]
    return plain + [NamedModel(name=f"ttt-{name}", weights="ttt", inner=i) for name, i in chosen]


def weights_name(config: ChapterModelsConfig, weights: Weights) -> str:
    """The base model below: a hub name, a folder, or tiny."""
    return (config.ttt_weights or config.weights) if weights == "ttt" else config.weights


def with_absolute_paths(config: C) -> C:
    """Folders of models, output and codes made absolute, since workers have their own.

    Hub names and tiny stay as they are; codes go below the output unless `codes_cache` says where.
    """
    names, model = ("weights", "ttt_weights", "mimi"), config.model
    model = replace(model, **{name: _absolute(getattr(model, name)) for name in names})
    folders = {name: getattr(model, name) for name in ("ttt", "lora")}
    model = replace(
        model, **{n: None if f is None else storage.absolute(f) for n, f in folders.items()}
    )
    output, cache = storage.absolute(config.output), config.codes_cache
    cache = os.path.join(output, "codes") if cache is None else storage.absolute(cache)
    return replace(config, model=model, output=output, codes_cache=cache)


def with_absolute_roots(data: ChapterConfig) -> ChapterConfig:
    """Places of chapters made absolute; one place stays one."""
    roots = tuple(map(storage.absolute, data.roots))
    cache = None if data.cache is None else storage.absolute(data.cache)
    return replace(data, root=roots[0] if len(roots) == 1 else roots or None, cache=cache)


def loads_no_model(output: str, pending: Callable[[], Sequence[Any]]) -> bool:
    """Whether the run in `output` is there with all its records, so that no model is looked at."""
    return (Path(output) / "run.json").exists() and not pending()


def _absolute(name: str | None) -> str | None:
    folder = name is not None and os.path.isdir(os.path.expanduser(name))
    return storage.absolute(name) if name is not None and folder else name

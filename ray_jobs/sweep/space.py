"""From a sweep's space to the training configuration of each trial, and what is wrong with it.

A trial is a set of values: dotted key -> value. `trial_config` lays them over the sweep's own
training configuration and checks the result as any training's; `require_valid` does so with what
the space can become, before anything starts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ray_jobs.config import yaml_tree
from ray_jobs.config.load import ConfigError, validate_tree
from ray_jobs.decoder.train.plan import plan_training
from ray_jobs.decoder.train_config import TrainConfig
from ray_jobs.sweep.config import RATE_FACTOR, TuneConfig
from ttt.config import Config
from ttt.errors import UserError
from ttt.snac.load import LoadedCodec, load_codec

Values = Mapping[str, Any]
"""Dotted key of the training configuration -> value."""

MOST_COMBINATIONS = 1024
"""Up to so many combinations of choices and ends are all checked; of more, so many drawn ones and
the trials that are known before the sweep starts."""


def trial_config(sweep: TuneConfig, values: Values, run: str) -> TrainConfig:
    """The training configuration of the trial with `values` in the folder `run`.

    Raises ConfigError with every problem of it.
    """
    config, problems = _lay_over(sweep, values, run)
    if config is None or problems:
        raise ConfigError("space", problems)
    return config


def default_config(sweep: TuneConfig) -> TrainConfig:
    """The sweep's training configuration as it stands."""
    return trial_config(sweep, {}, sweep.run)


def drawn(sweep: TuneConfig) -> list[dict[str, Any]]:
    """The values of every trial besides trial 0 of a random or grid search, in order.

    A draw depends on the seed and its place alone: a longer list begins with the shorter one.
    Combinations of a grid that change nothing are left out, since trial 0 is the same training.
    """
    space = sweep.space
    if sweep.search.kind == "grid":
        default = default_config(sweep)
        return [v for v in _grid(sweep) if trial_config(sweep, v, sweep.run) != default]
    trials = []
    for number in range(1, (sweep.search.trials or 0) + 1):
        shares = np.random.default_rng([sweep.search.seed, number]).random(len(space))
        pairs = zip(space.items(), shares.tolist(), strict=True)
        trials.append({key: values.at(share) for (key, values), share in pairs})
    return trials


def require_valid(sweep: TuneConfig) -> LoadedCodec:
    """Check what the space can become; returns the codec, which all trials share.

    Raises ConfigError with every problem at once, and UserError when the codec does not load.

    An interval is checked at its ends, which is enough, because every limit of a training
    configuration is a range. Combinations of several keys are checked together; of more than
    MOST_COMBINATIONS so many, and the trials that are drawn beforehand.
    """
    default = default_config(sweep)
    problems = dict.fromkeys(_overlaps(sweep))
    plans: dict[str, tuple[Values, TrainConfig]] = {}
    for values in _combinations(sweep):
        config, found = _checked(sweep, values, default)
        problems |= dict.fromkeys(found)
        if config is not None and not found:
            plans.setdefault(_planned_by(config), (values, config))
    if problems:
        # One key's mistake can hide another's, so each value is looked at alone as well.
        for key, values in sweep.space.items():
            for edge in values.edges():
                problems |= dict.fromkeys(_checked(sweep, {key: edge}, default)[1])
    if problems:
        raise ConfigError("space", list(problems))
    codec = load_codec(sweep.codec)
    for values, config in plans.values():
        try:
            plan_training(config, codec)
        except UserError as error:
            words = ", ".join(f"{key}={yaml_tree.show(value)}" for key, value in values.items())
            problems |= {f"with {words}: {error}": None}
    if problems:
        raise ConfigError("space", list(problems))
    return codec


def number_of_trials(sweep: TuneConfig) -> int:
    """All trials of the sweep, trial 0 included."""
    return 1 + (len(drawn(sweep)) if sweep.search.kind == "grid" else sweep.search.trials or 0)


def in_words(sweep: TuneConfig) -> dict[str, str]:
    """Key -> what it may become."""
    words = {}
    for key, values in sweep.space.items():
        kind = "one of" if values.choice else "uniform" if values.uniform else "loguniform"
        words[key] = f"{kind} {', '.join(yaml_tree.show(edge) for edge in values.edges())}"
    return words


def value_of(sweep: TuneConfig, key: str, values: Values) -> Any:
    """What `key` is in the trial with `values`."""
    unset = 1.0 if key == RATE_FACTOR else None
    default = _get(_training_tree(sweep), key)
    return values.get(key, unset if default is None else default)


def most_epochs(sweep: TuneConfig) -> int:
    """Epochs of the longest training of a valid space."""
    configs = (trial_config(sweep, values, sweep.run) for values in _combinations(sweep))
    return max(config.curriculum.epochs for config in configs)


def _checked(
    sweep: TuneConfig, values: Values, default: TrainConfig
) -> tuple[TrainConfig | None, list[str]]:
    config, found = _lay_over(sweep, values, sweep.run)
    if config is not None and not found:
        found = _not_comparable(default, config, values)
    return config, found


def _lay_over(sweep: TuneConfig, values: Values, run: str) -> tuple[TrainConfig | None, list[str]]:
    tree = {**_training_tree(sweep), "run": run}
    problems = []
    for key, value in values.items():
        old = _get(tree, key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = yaml_tree.merge(old, value)
        problem = yaml_tree.set_value(tree, key, value)
        problems += [f"{key}: {problem}"] if problem else []
    config, found = validate_tree(TrainConfig, tree)
    return config, [*problems, *found]


def _training_tree(sweep: TuneConfig) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    return {name: value for name, value in sweep.to_dict().items() if name in names}


def _get(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _overlaps(sweep: TuneConfig) -> list[str]:
    return [
        f"{inner}: is part of {outer}, which varies too; put them into one group"
        for outer, inner in itertools.permutations(sweep.space, 2)
        if inner.startswith(f"{outer}.")
    ]


def _grid(sweep: TuneConfig) -> Iterator[dict[str, Any]]:
    edges = {key: values.edges() for key, values in sweep.space.items()}
    for values in itertools.product(*edges.values()):
        yield dict(zip(edges, values, strict=True))


def _combinations(sweep: TuneConfig) -> Iterator[dict[str, Any]]:
    edges = {key: values.edges() for key, values in sweep.space.items()}
    if sweep.search.kind == "grid" or math.prod(map(len, edges.values())) <= MOST_COMBINATIONS:
        yield from _grid(sweep)
        return
    first = {key: options[0] for key, options in edges.items()}
    for key, options in edges.items():
        yield from ({**first, key: option} for option in options)
    generator = np.random.default_rng(0)
    for _ in range(MOST_COMBINATIONS):
        yield {key: options[generator.integers(len(options))] for key, options in edges.items()}
    if sweep.search.kind == "random":
        yield from drawn(sweep)


_SAME_MEASURE = "trials would be compared by different measures"
_SAME_FOR_ALL = "the same for all trials; set it in the configuration itself"
_FIXED = {
    "loss": _SAME_MEASURE,
    "validation": _SAME_MEASURE,
    "data.validation": _SAME_MEASURE,
    "data.validation_share": _SAME_MEASURE,
    "curriculum.context_coarse": _SAME_MEASURE,
    "codec": _SAME_MEASURE,
    "data.train": _SAME_FOR_ALL,
    "run": _SAME_FOR_ALL,
    "checkpoint": _SAME_FOR_ALL,
    "cluster": _SAME_FOR_ALL,
    "tracking": _SAME_FOR_ALL,
}
"""What cannot vary, and why."""


def _not_comparable(default: Config, config: Config, keys: Iterable[str]) -> list[str]:
    before, now = default.to_dict(), config.to_dict()
    return [
        f"{_blamed(fixed, keys)}: cannot vary ({reason})"
        for fixed, reason in _FIXED.items()
        if _get(before, fixed) != _get(now, fixed)
    ]


def _blamed(fixed: str, keys: Iterable[str]) -> str:
    """The key of the space that changed `fixed`: itself, one inside it or one around it."""
    for key in keys:
        if f"{key}.".startswith(f"{fixed}.") or f"{fixed}.".startswith(f"{key}."):
            return key
    return fixed


def _planned_by(config: TrainConfig) -> str:
    """What decides whether a training can be planned over its cache."""
    plan: Sequence[Any] = (config.curriculum.digest(), config.data.digest(), config.init)
    return repr(plan)

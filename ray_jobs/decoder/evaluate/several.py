"""What an evaluation of several decoders will do: each as if it were alone, then all by clip.

`plan` and `describe` are the command's, for one decoder too.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray_jobs.decoder.evaluate.ears import KEY, PAGE
from ray_jobs.decoder.evaluate.plan import Plan, codec_name, plan_evaluation
from ray_jobs.decoder.evaluate.plan import describe as describe_one
from ray_jobs.decoder.evaluate_config import EvaluateConfig
from ray_jobs.decoder.source import DecoderSource, find_decoder
from ttt import storage
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.snac.export import WEIGHTS, read_config


@dataclass(frozen=True)
class SeveralPlan:
    """What an evaluation of several decoders will do."""

    config: EvaluateConfig
    plans: dict[str, Plan]
    """Letter -> the evaluation of that decoder, into the folder of this name; all of the same
    clips. The others are held to the first."""

    @property
    def first(self) -> Plan:
        """The plan of the decoder that the others are held to."""
        return next(iter(self.plans.values()))


def plan(config: EvaluateConfig) -> Plan | SeveralPlan:
    """Find the decoders and the clips.

    Raises UserError for whatever cannot be found or does not fit, for the same decoder twice, for
    decoders of different codecs, and where runs held out different clips and no data are named.
    """
    if isinstance(config.decoder, str):
        return plan_evaluation(config)
    sources = [find_decoder(name) for name in config.decoder]
    for pair in itertools.combinations(sources, 2):
        _refuse_other_codec(config, *pair)
        _refuse_same(*pair)
    _refuse_other_clips(config, sources)
    letters = string.ascii_uppercase[: len(sources)]
    configs = [
        replace(config, decoder=source.name, output=storage.join(config.output, letter))
        for letter, source in zip(letters, sources, strict=True)
    ]
    first = plan_evaluation(configs[0])
    others = [
        replace(first, config=its, decoder=source)
        for its, source in zip(configs[1:], sources[1:], strict=True)
    ]
    return SeveralPlan(config, dict(zip(letters, (first, *others), strict=True)))


def describe(plan: Plan | SeveralPlan) -> str:
    """The plan in words."""
    if isinstance(plan, Plan):
        return describe_one(plan)
    first, *others = plan.plans
    return "\n".join(
        [
            f"compare {', '.join(others)} with {first} clip by clip",
            *(f"{letter}: {describe_one(each)}" for letter, each in plan.plans.items()),
            f"together: {plan.config.output}/summary.json, comparison.md, report.html"
            + (
                f", {PAGE}; keep {KEY}, without it no answer to the page can be scored"
                if len(others) == 1 and plan.config.report.listening_clips
                else ""
            ),
        ]
    )


def _refuse_same(one: DecoderSource, other: DecoderSource) -> None:
    if _place(one) == _place(other):
        raise UserError(
            f"decoder names {_place(one)} twice ({one.name}, {other.name}); name two that differ"
        )
    digests = [_digest(each) for each in (one, other)]
    if digests[0] is not None and digests[0] == digests[1]:
        raise UserError(
            f"{one.name} and {other.name} are the same decoder (weights {digests[0][0][:12]}); "
            "name two that differ"
        )


def _place(source: DecoderSource) -> str:
    return storage.absolute(source.export or source.checkpoint or source.name)


def _digest(source: DecoderSource) -> tuple[str, str | None] | None:
    """Of an export's weights and noise floor, where it lies on a disk."""
    if source.export is None or not storage.is_local(source.export):
        return None
    floor = read_config(source.export).noise_floor
    weights = storage.local_path(source.export) / WEIGHTS
    return FileIdentity.of(weights).sha256, None if floor is None else floor.digest


def _refuse_other_codec(config: EvaluateConfig, one: DecoderSource, other: DecoderSource) -> None:
    """By weights and geometry where both are exports, else by the name of the runs' codec."""
    exports = [each.export for each in (one, other)]
    if exports[0] is not None and exports[1] is not None:
        first, second = (read_config(export) for export in exports if export is not None)
        same = first.codec_sha256 == second.codec_sha256 and first.geometry == second.geometry
        told = [f"weights {each.codec_sha256[:12]}" for each in (first, second)]
    else:
        told = [codec_name(config, each) for each in (one, other)]
        same = told[0] == told[1]
    if not same:
        raise UserError(
            f"{one.name} and {other.name} are decoders of different codecs ({told[0]} and "
            f"{told[1]}); only decoders of the same codec can be compared"
        )


def _refuse_other_clips(config: EvaluateConfig, sources: Sequence[DecoderSource]) -> None:
    """Without data of its own an evaluation takes the clips that the run held out."""
    if config.data.audio is not None or config.data.cache is not None:
        return
    held = {_held_out(source) for source in sources}
    if len(held) > 1:
        raise UserError(
            f"the runs of {' and '.join(source.name for source in sources)} held out different "
            "clips; set data.audio or data.cache to clips that none of them was trained on"
        )


def _held_out(source: DecoderSource) -> tuple[str | float | None, ...]:
    if source.training is None:
        return ()
    data = source.training.data
    if data.validation is not None:
        return (data.validation,)
    return data.train, data.validation_share

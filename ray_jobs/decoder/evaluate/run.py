"""An evaluation: find the decoder and the clips, measure on workers, write the results.

OUTPUT/results.jsonl has a line per measured clip (clip_id, seconds, speaker, decoder, systems ->
metrics, with every level of the cheap tricks, so that a later summary can choose); summary.json the
means, ratios, verdict, what was left out and provenance; report.html the page; examples/ the
passages that it shows, as FLAC.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ray_jobs.decoder.evaluate import clips as measured_clips
from ray_jobs.decoder.evaluate.passages import middle_passages, ranked_examples
from ray_jobs.decoder.evaluate.plan import Item, Plan
from ray_jobs.decoder.evaluate.visqol_pass import score_clips, visqol_of, with_scores
from ray_jobs.decoder.evaluate_config import EvaluateConfig
from ray_jobs.reports.decoder import build_report
from ray_jobs.reports.examples import write_examples
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ray_jobs.runtime.items import Session, WorkerDied, Workers, worker_session
from ray_jobs.runtime.progress import Progress
from ray_jobs.runtime.run_folder import refuse_changed_config
from ttt import records, retries, storage
from ttt.device_errors import is_out_of_memory, raise_if_lost
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.numerics import exact_float32
from ttt.snac.cache.index import open_cache_of
from ttt.snac.evaluate import Evaluator, Passage, Unmeasurable
from ttt.snac.evaluation.card import card
from ttt.snac.evaluation.clips import ClipReader
from ttt.snac.evaluation.systems import trick_levels
from ttt.snac.evaluation.trick_levels import FittedTricks, Level, fit
from ttt.snac.evaluation.visqol import NotScored
from ttt.snac.export import read_config
from ttt.snac.load import LoadedCodec, load_codec
from ttt.snac.model import Decoder48k
from ttt.snac.verdict import summarize


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation of one decoder found."""

    lines: Sequence[dict[str, Any]]
    """Of results.jsonl, in the order of the clips."""
    summary: dict[str, Any]
    """Of summary.json."""
    measured: Mapping[str, str]
    """The digests of the decoder and its noise floor, by key."""
    passages: Mapping[str, Passage]
    """Clip -> its middle in all versions, of the clips that were asked for."""


def evaluate(plan: Plan, invocation: Invocation) -> None:
    """Measure every clip and write the output folder; with --resume, measured clips are kept.

    Raises UserError before Ray starts for what does not fit, and at the end, with everything
    written, when fewer clips than `min_coverage` were measured.
    """
    summary = measure_one(plan, invocation).summary
    data, config = summary["data"], plan.config
    require_coverage(config, data["evaluated"], data["wanted"])


def measure_one(
    plan: Plan,
    invocation: Invocation,
    choose: Callable[[Sequence[str]], Sequence[str]] = lambda measured: (),
) -> Evaluated:
    """Measure every clip with the plan's decoder, write its folder and say what was found.

    Args:
        choose: which of the measured clips' ids to return passages of.
    """
    config = plan.config
    if invocation.resume:
        refuse_changed_config(config, Path(storage.local_path(config.output)))
    output = storage.local_path(config.output)
    codec = load_codec(plan.codec)
    if plan.cache is not None:
        open_cache_of(plan.cache, codec)
    with run_folder.claim(config.output, config, resume=invocation.resume) as begin:
        with plan.decoder.exporting(output / "decoder") as made:
            Evaluator(Decoder48k.from_pretrained(made), codec)  # refuses another codec's decoder
            exported = read_config(made)
            floor = exported.noise_floor if config.noise_floor else None
            measured = {
                "decoder": FileIdentity.of(made / "model.safetensors").sha256,
                **({} if floor is None else {"noise_floor": floor.digest}),
            }
            done = _read_done(output / "results.jsonl", measured)
            done_ids = [line["clip_id"] for line in done]
            measured_clips.refuse_other(output, plan, codec.weights_sha256, done_ids)
        folder = plan.decoder.exported(output / "decoder").resolve()
        begin()
        missing = len(plan.items) - len(done)
        bare = replace(plan, items=())  # Its items reach a worker one by one.
        with (
            worker_session(config.cluster, invocation.address, wanted=missing) as session,
            session.workers(EvaluateWorker, bare, str(folder), codec.weights_sha256) as workers,
        ):
            made_of = measured, codec.weights_sha256
            clips, left_out = _measure(plan, session, workers, made_of, done)
            levels = trick_levels(exported.tricks, fit([line["systems"] for line in clips]))
            scores = score_clips(config, plan.items, clips, levels, workers)
            examples = ranked_examples(plan, workers, clips, levels)
            clips = _in_order(clips, plan.items)
            passages = middle_passages(plan, workers, choose([line["clip_id"] for line in clips]))
        clips = with_scores(clips, scores)
        _write_lines(output / "results.jsonl", clips)
        summary = _summary(plan, codec, measured["decoder"], clips, left_out, exported.tricks)
        summary["decoder"]["noise_floor"] = None if floor is None else floor.words
        records.write_json(output / "summary.json", summary)
        write_examples(output / "examples", examples)
        page = build_report(summary, clips, examples, plan.decoder.history())
        storage.write_bytes(output / "report.html", page.encode())
        without_its_floor = floor is None and exported.noise_floor is not None
        if plan.decoder.takes_card and config.report.write_card and not without_its_floor:
            readme = storage.join(plan.decoder.export or "", "README.md")
            storage.write_bytes(readme, card(summary).encode())
    print(_closing_words(config, summary), flush=True)
    return Evaluated(clips, summary, measured, passages)


def require_coverage(config: EvaluateConfig, evaluated: int, wanted: int) -> None:
    """Raise UserError when fewer clips were measured than `min_coverage` asks for."""
    if evaluated / max(wanted, 1) < config.min_coverage:
        summary = storage.local_path(config.output) / "summary.json"
        raise UserError(
            f"{evaluated} of {wanted} clips could be measured, min_coverage is "
            f"{config.min_coverage:g}; {summary} lists the others with their reasons"
        )


class EvaluateWorker:
    """Holds the models and measures clips."""

    def __init__(self, plan: Plan, folder: str, codec_sha256: str) -> None:
        """`plan` need not hold items; `folder` is the export to measure."""
        config = plan.config
        torch.set_num_threads(config.cluster.threads)
        exact_float32()
        device = config.cluster.device
        loaded = load_codec(plan.codec, device, known_sha256=codec_sha256)
        self._reader = ClipReader(loaded, plan.cache, config.quality)
        decoder = Decoder48k.from_pretrained(folder, device, noise_floor=config.noise_floor)
        self._evaluator = Evaluator(decoder, loaded)

    def measure(self, item: Item) -> dict[str, Any] | Unmeasurable:
        """A line of results.jsonl with the clip's `source`, or why there is none."""
        try:
            clip = self._reader.read(item)
            return {
                "source": self._reader.source(item),
                "clip_id": clip.clip_id,
                "seconds": clip.seconds,
                "speaker": clip.speaker,
                "systems": self._evaluator.measure(clip),
            }
        except Unmeasurable as reason:
            return reason
        except retries.StorageUnavailable:
            raise
        except UserError as error:
            raise_if_lost(error)
            return Unmeasurable(str(error))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return Unmeasurable(f"out of memory on a clip of this length ({error})")

    def visqol(self, item: Item, levels: Mapping[str, Level]) -> dict[str, float | None] | None:
        """System -> ViSQOL on the middle of the clip; None when the clip has no score."""
        try:
            return self._evaluator.visqol(self._reader.read(item), levels)
        except NotScored:
            return None

    def render(self, item: Item, seconds: float, levels: Mapping[str, Level]) -> Passage:
        """The middle of a clip in all versions, the tricks at these levels among them."""
        return self._evaluator.passage(self._reader.read(item), seconds, levels)


def _measure(
    plan: Plan,
    session: Session,
    workers: Workers,
    made_of: tuple[dict[str, str], str],
    done: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The lines of all measured clips, and the left-out ones with their reasons.

    `made_of` are the digests of the decoder and its noise floor, by key, and of the codec.
    """
    output, (measured, codec_sha256) = storage.local_path(plan.config.output), made_of
    known = {line["clip_id"] for line in done}
    items = [item for item in plan.items if item.clip_id not in known]
    clips = [line for line in done if line["clip_id"] in {item.clip_id for item in plan.items}]
    left_out: list[dict[str, str]] = []
    with (
        Progress("evaluate", len(plan.items), "clips", done=len(clips)) as progress,
        session.exporting(progress, "evaluate_decoder", plan.config.output),
    ):
        for item, result in workers.each("measure", items, progress=progress):
            if isinstance(result, Unmeasurable | WorkerDied):
                left_out.append({"clip_id": item.clip_id, "reason": result.reason})
            else:
                source = result.pop("source")
                measured_clips.note(output, item.clip_id, codec_sha256, source)
                line = {**measured, **result}
                records.append_jsonl(output / "results.jsonl", line)
                clips.append(line)
            progress.advance(1, left_out=len(left_out))
    left_out.sort(key=lambda entry: entry["clip_id"])
    return clips, left_out


def _read_done(path: Path, measured: dict[str, str]) -> list[dict[str, Any]]:
    """The lines an interrupted evaluation left; its last one may be cut short and is dropped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    if any(
        line.get(key) != measured.get(key) for line in lines for key in ("decoder", "noise_floor")
    ):
        raise UserError(
            f"{path}: holds results of another decoder or noise floor; choose another output, or "
            "delete it to measure again"
        )
    _write_lines(path, lines)
    return lines


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(records.finite(line), allow_nan=False) + "\n" for line in lines)
    storage.write_bytes(path, text.encode())


def _in_order(clips: list[dict[str, Any]], items: Sequence[Item]) -> list[dict[str, Any]]:
    place = {item.clip_id: number for number, item in enumerate(items)}
    return sorted(clips, key=lambda line: place[line["clip_id"]])


def _summary(
    plan: Plan,
    codec: LoadedCodec,
    sha256: str,
    clips: Sequence[dict[str, Any]],
    left_out: list[dict[str, str]],
    tricks: FittedTricks | None,
) -> dict[str, Any]:
    config, bootstrap = plan.config, plan.config.bootstrap
    judged = summarize(
        [line["systems"] for line in clips],
        bootstrap.seed,
        bootstrap.resamples,
        speakers=[line.get("speaker") for line in clips],
        fitted=tricks,
    )
    return {
        "decoder": {
            "name": plan.decoder.name,
            "source": plan.decoder.kind,
            "sha256": sha256,
            "codec": codec.name,
            "codec_sha256": codec.weights_sha256,
        },
        "data": {
            "name": plan.data,
            "kind": plan.kind,
            "wanted": len(plan.items),
            "evaluated": len(clips),
            "coverage": len(clips) / max(len(plan.items), 1),
            "seconds": sum(line["seconds"] for line in clips),
            "left_out": left_out,
        },
        **judged,
        "visqol": visqol_of(config, clips, judged["verdict"]),
        "bootstrap": bootstrap.to_dict(),
        "provenance": records.provenance(config),
    }


def _closing_words(config: EvaluateConfig, summary: dict[str, Any]) -> str:
    verdict = summary["verdict"]
    return "\n".join(
        [
            f"{verdict['heading']}: {' '.join(verdict['sentences'])}",
            summary["visqol"]["sentence"],
            f"report: {config.output}/report.html",
        ]
    )

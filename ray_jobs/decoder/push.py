"""A decoder pushed to the hub: everything is looked at first, then it goes as one commit."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.decoder.push_config import PushConfig
from ray_jobs.decoder.source import DecoderSource, find_decoder
from ray_jobs.runtime.cli import Invocation
from ttt import storage
from ttt.errors import UserError
from ttt.snac.export import WEIGHTS
from ttt.snac.hub import (
    Destination,
    check_export,
    hub_card,
    is_hub_name,
    look_at,
    push,
    split_card,
)


@dataclass(frozen=True)
class Plan:
    """What will be pushed, and where it goes."""

    config: PushConfig
    decoder: DecoderSource
    card: str
    """README.md as it will stand there."""
    destination: Destination


def plan_push(config: PushConfig) -> Plan:
    """Look at the export and ask the hub about the repository. Raises UserError."""
    if is_hub_name(config.decoder):
        raise UserError(
            f"decoder={config.decoder}: no such folder; give an export or the folder of a training "
            "run, since what is on the hub already is not pushed again"
        )
    decoder = find_decoder(config.decoder)
    if decoder.export is not None and storage.is_local(decoder.export):
        check_export(storage.local_path(decoder.export))
    readme = _readme(decoder.export)
    told = split_card(readme or "")[0].get("base_model")
    base_model = config.base_model or told or _codec_of(decoder)
    card = hub_card(readme, config.repo, license=config.license, base_model=base_model)
    return Plan(config, decoder, card, look_at(config.repo, card, private=config.private))


def describe(plan: Plan) -> str:
    """The plan in words."""
    fields, _ = split_card(plan.card)
    to = plan.destination
    who = {True: ", private", False: ", public", None: ""}[to.private]
    state = f"a new repository{who}" if to.commit is None else f"a commit after {to.commit[:12]}"
    return (
        f"push {plan.decoder.kind} {plan.decoder.name} to {to.url}: {state}\n"
        f"  license: {fields['license']}\n"
        f"  base model: {_base_words(fields)}\n"
        f"  numbers: {_numbers_words(fields)}\n"
        f"  sends: config.json, {WEIGHTS} and README.md, in one commit"
    )


def execute(plan: Plan, invocation: Invocation) -> None:
    """Push. Raises UserError, and then nothing was pushed."""
    with tempfile.TemporaryDirectory() as made:
        folder = plan.decoder.export_into(Path(made, "export"))
        check_export(folder)
        url = push(folder, plan.destination, plan.card)
    before = plan.destination.commit
    said = "pushed" if before is None or before not in url else "nothing has changed since"
    print(f"{said}: {url}\nload it: Decoder48k.from_pretrained({plan.config.repo!r})", flush=True)


def _readme(export: str | None) -> str | None:
    """The export's README.md, where there is one."""
    uri = None if export is None else storage.join(export, "README.md")
    if uri is None or not storage.exists(uri):
        return None
    return storage.read_bytes(uri).decode()


def _codec_of(decoder: DecoderSource) -> str | None:
    """The name on the hub of the codec that the run was trained with, if it has one."""
    codec = None if decoder.training is None else decoder.training.codec
    return codec if codec is not None and is_hub_name(codec) else None


def _base_words(fields: dict[str, Any]) -> str:
    return fields.get("base_model") or "not named; base_model=USER/NAME of the codec would do so"


def _numbers_words(fields: dict[str, Any]) -> str:
    if fields.get("metrics"):
        return f"measured by an evaluation: {', '.join(fields['metrics'])}"
    return "none; ray_jobs.evaluate_decoder on this export puts its own into the card"

"""The import of a checkpoint of the original TTT code; the plan is the report of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ray_jobs.moshi.import_config import ImportTTTConfig
from ray_jobs.runtime import run_folder
from ray_jobs.runtime.cli import Invocation
from ttt.errors import UserError
from ttt.moshi.load import load_moshi
from ttt.moshi.lora import check_lora
from ttt.moshi.original_checkpoint import import_original
from ttt.moshi.original_report import ImportReport
from ttt.moshi.ttt_files import write_ttt


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be written."""

    config: ImportTTTConfig
    tensors: dict[str, Tensor]
    report: ImportReport


def make_plan(config: ImportTTTConfig) -> Plan:
    """Read the checkpoint, and the base model where one is named. Raises UserError."""
    tensors, report = import_original(
        Path(config.input).expanduser(),
        mini_batch_size=config.mini_batch_size,
        base_lr=config.base_lr,
        attention_context=config.attention_context,
    )
    if config.weights is not None:
        base = load_moshi(config.weights)
        if report.fingerprint not in (None, base.fingerprint):
            raise UserError(
                f"weights={config.weights} is the base model {base.fingerprint}, and "
                f"{report.source} holds {report.fingerprint}: leave weights out, or name that one"
            )
        if report.lora is not None:
            check_lora(base.lm, report.lora)
        report = replace(report, fingerprint=base.fingerprint)
    return Plan(config, tensors, report)


def describe(plan: Plan) -> str:
    """The report, and where it goes."""
    report, output = plan.report, plan.config.output
    bound = (
        "no base model whose shapes fit will be refused: weights=NAME binds the layers to theirs"
        if report.fingerprint is None
        else f"they fit the base model {report.fingerprint} alone"
    )
    beside = "" if report.lora is None else ", and beside them lora.safetensors and config.json"
    return "\n".join(
        [*report.lines(), f"writes: {output}/ttt.json and ttt.safetensors{beside}; {bound}"]
    )


def execute(plan: Plan, invocation: Invocation) -> None:
    """Write the folder that model.ttt takes."""
    report, output = plan.report, plan.config.output
    with run_folder.claim(output, plan.config, resume=invocation.resume) as begin:
        begin()
        write_ttt(
            output,
            plan.tensors,
            report.layers,
            report.config,
            attention_context=report.attention_context,
            fingerprint=report.fingerprint,
            beside=None if report.lora is None else (report.lora, report.lora_config),
        )
    print(f"{output}: ready for model.ttt={output}")

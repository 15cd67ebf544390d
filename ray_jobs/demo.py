"""`make demo`: the whole story on a CPU, from nothing to a report.

Each step is a command that you could type yourself; the demo prints and runs it, two beside each
other where neither needs the other's output, and stops at the first that fails. The voice is
synthetic (`ttt.synthetic.voice`), the codec and the two Moshis are the tiny ones of this
repository, so that nothing needs to be downloaded. The evaluation's clips and chapters are ones
that no model was trained on.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ray_jobs.runtime.cli import USER_ERROR_EXIT, later, unwinding_signals
from ray_jobs.runtime.demo_steps import steps
from ray_jobs.runtime.side_by_side import Step, run_steps
from ttt.errors import UserError

TRAINING_CLIPS, UNSEEN_CLIPS = 44, 12
TRAINING_SEED, UNSEEN_SEED = 100_000, 900_000


def main() -> int:
    """Run every step into runs/demo and print where the report is."""
    folder = Path("runs/demo")
    planned = steps(folder)
    began = time.monotonic()
    print(_outlook(planned), flush=True)  # Before the imports that the work costs.
    try:
        _start_afresh(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT
    with unwinding_signals("stopped; make demo starts afresh"):
        _write_audio(folder)
        code = run_steps(planned)
    if code != 0:
        return code
    page = later("ray_jobs.reports.demo:write_page")(folder)
    minutes = (time.monotonic() - began) / 60
    print(f"\n[demo] finished in {minutes:.1f} minutes")
    print(f"[demo] report: {page}")
    return 0


def _outlook(planned: Sequence[Step]) -> str:
    lines = [f"  {step.module.partition('.')[2]:17} {step.what}" for step in planned]
    return "\n".join(
        [
            f"[demo] {TRAINING_CLIPS + UNSEEN_CLIPS} clips of synthetic speech, then "
            f"{len(planned)} commands, two beside each other; about five minutes on two cores:",
            *lines,
        ]
    )


def _write_audio(folder: Path) -> None:
    print("[demo] making the speech", flush=True)
    write_corpus = later("ttt.synthetic.voice:write_corpus")
    write_corpus(folder / "audio", TRAINING_CLIPS, TRAINING_SEED, seconds=(4.5, 7.0))
    write_corpus(folder / "unseen", UNSEEN_CLIPS, UNSEEN_SEED, seconds=(3.0, 5.0))
    later("ttt.synthetic.pairs:write_fixtures")(folder / "benchmarks")


def _start_afresh(folder: Path) -> None:
    marker = folder / ".made-by-demo"
    if folder.exists():
        if not marker.exists():
            raise UserError(f"{folder} exists and is not the demo's; move it away and try again")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    marker.touch()


if __name__ == "__main__":
    sys.exit(main())

"""`make demo`: the whole story on a CPU, from nothing to a report.

Each step is a command that you could type yourself; the demo prints it, runs it and stops at the
first that fails. The voice is synthetic (`ttt.synthetic.voice`), the codec and the two Moshis are
the tiny ones of this repository, so that nothing needs to be downloaded. The evaluation's clips
and chapters are ones that no model was trained on.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ray_jobs.reports.demo import write_page
from ray_jobs.runtime.demo_steps import steps
from ttt.errors import UserError
from ttt.synthetic.pairs import write_fixtures
from ttt.synthetic.voice import write_corpus

TRAINING_CLIPS, UNSEEN_CLIPS = 44, 12
TRAINING_SEED, UNSEEN_SEED = 100_000, 900_000


def main() -> int:
    """Run every step into runs/demo and print where the report is."""
    folder = Path("runs/demo")
    try:
        _start_afresh(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    print(f"[demo] making {TRAINING_CLIPS + UNSEEN_CLIPS} clips of synthetic speech", flush=True)
    write_corpus(folder / "audio", TRAINING_CLIPS, TRAINING_SEED, seconds=(4.5, 7.0))
    write_corpus(folder / "unseen", UNSEEN_CLIPS, UNSEEN_SEED, seconds=(3.0, 5.0))
    write_fixtures(folder / "benchmarks")
    for module, *arguments in steps(folder):
        command = [sys.executable, "-m", module, *arguments]
        print(f"\n[demo] $ {shlex.join(['python', *command[1:]])}", flush=True)
        code = subprocess.run(command).returncode
        if code != 0:
            print(f"[demo] {module} stopped with exit code {code}", file=sys.stderr)
            return code
    page = write_page(folder)
    minutes = (time.monotonic() - began) / 60
    print(f"\n[demo] finished in {minutes:.1f} minutes")
    print(f"[demo] report: {page}")
    return 0


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

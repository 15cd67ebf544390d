"""plots/ of a run's folder: every figure of its summary, as PNG and SVG.

Drawing takes most of the time of a run in which nothing else is left to do. plots.json says what
the pictures were drawn of (the summary, and the code and packages that draw) and which files they
are; while all of that is so, they stand. Whoever wants them drawn anew deletes plots/.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ttt import plots, storage
from ttt.eval import figures
from ttt.eval.figures import Figures, drawn_files
from ttt.records import finite, read_json, write_json

_NOTE = "plots.json"
_DRAWN_BY = ("matplotlib", "numpy", "pillow")


def draw_plots(folder: str | Path, summary: Mapping[str, Any], wanted: Figures) -> None:
    """Write FOLDER/plots and FOLDER/plots.json, unless the same pictures are there.

    Args:
        wanted: the figures of this summary.
    """
    drawn_of = _sha256_of_all(summary)
    if _stand(folder, drawn_of):
        return
    drawn = drawn_files(wanted)
    for name, content in drawn.items():
        storage.write_bytes(_path(folder, name), content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in drawn.items()}
    write_json(storage.join(folder, _NOTE), {"drawn_of": drawn_of, "files": files})


def _stand(folder: str | Path, drawn_of: str) -> bool:
    """Whether every picture is there as it was drawn, and of this."""
    try:
        note = read_json(storage.join(folder, _NOTE))
        return note["drawn_of"] == drawn_of and all(
            hashlib.sha256(storage.read_bytes(_path(folder, name))).hexdigest() == sha256
            for name, sha256 in note["files"].items()
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return False  # Something is missing, or was written by another hand: draw.


def _sha256_of_all(summary: Mapping[str, Any]) -> str:
    """Of whatever a picture depends on."""
    digest = hashlib.sha256(json.dumps(finite(summary)).encode())
    for module in (plots, figures):
        digest.update(inspect.getsource(module).encode())
    digest.update(" ".join(map(version, _DRAWN_BY)).encode())
    return digest.hexdigest()


def _path(folder: str | Path, name: str) -> str:
    return storage.join(folder, "plots", name)

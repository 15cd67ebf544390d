"""The page of a blind comparison by ear: it opens offline, and does not know whose a version is."""

from __future__ import annotations

import base64
import json
import math

from ray_jobs.reports.page import render
from ray_jobs.reports.words import counted
from ttt.audio import flac_bytes
from ttt.snac.evaluation.listening import FORMAT_VERSION, RESULT_FORMAT, Listening
from ttt.snac.geometry import TARGET_RATE


def build_listening_page(listening: Listening) -> str:
    """The whole page, its sounds inside it, without a link to anywhere."""
    count = len(listening.trials)
    content = {
        "page": listening.page,
        "format": RESULT_FORMAT,
        "format_version": FORMAT_VERSION,
        "trials": [
            {
                "trial": trial.trial_id,
                "versions": {
                    token: base64.b64encode(flac_bytes(audio, TARGET_RATE)).decode()
                    for token, audio in trial.versions.items()
                },
            }
            for trial in listening.trials
        ],
    }
    return render(
        "listening.html.j2",
        "Which sounds better?",
        subtitle=f"{counted(count, 'clip')}, each in two versions",
        content=json.dumps(content, separators=(",", ":")),
        page=listening.page,
        residual=residual_words(listening.residual_lu),
    )


def residual_words(residual_lu: float) -> str:
    """The largest difference in loudness that is left, rounded up."""
    return f"{max(math.ceil(residual_lu * 1000) / 1000, 0.001):.3f} LU"

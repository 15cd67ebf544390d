"""README.md of an evaluated decoder: what was measured, for people and for the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttt import storage
from ttt.snac.evaluation.systems import METRIC_NAMES, OURS, SYSTEM_NAMES
from ttt.snac.evaluation.verdict_words import level_notes
from ttt.snac.evaluation.visqol import told_by
from ttt.snac.hub.card import measured_card
from ttt.snac.verdict import describe_interval, digits


def card(summary: Mapping[str, Any]) -> str:
    """README.md of the decoder that an evaluation's summary.json is about, for the hub as well."""
    decoder, data, made = summary["decoder"], summary["data"], summary["provenance"]
    verdict, recordings = summary["verdict"], storage.name(data["name"]) or "recordings"
    clips = f"{data['evaluated']} clip{'s' * (data['evaluated'] != 1)}"
    body = f"""# A 48 kHz decoder for SNAC codes

It turns the codes of `{decoder["codec"]}` into 48 kHz audio.

```python
from ttt.snac.model import Decoder48k
audio = Decoder48k.from_pretrained("path/to/this/folder").decode(codes)
```

`codes` are the codec's own, one integer tensor [batch, length] per codebook, coarsest first;
`audio` is [batch, 1, samples] at 48 kHz in [-1, 1]. `decode_24k(codes)` gives its 24 kHz output.

## Measured

**{verdict["heading"]}.** {" ".join(verdict["sentences"])}

{_card_table(summary)}

Mean over {clips} ({data["seconds"]:.0f} s) of {data["wanted"]} from
`{recordings}`, with 95 % intervals over {summary["units"]["kind"]}s. Lower is better,
except for env-r, SI-SDR and ViSQOL. LSD: log-spectral distance (Hann 2048/512, base-10 log of the
power spectrum); LSD-LF and LSD-HF: its parts below and above 12 kHz; offset out: LSD-HF after each
clip's median log difference, which is blind to level; env-r: correlation of band energies over time
above 12.6 kHz; L1: mean absolute difference of samples. LSD alone is won by noise, so read it
beside all others, and beside the rows of hiss and folding, which cost nothing.
{" ".join(level_notes(summary["tricks"]))}

{told_by(summary)["sentence"]}

## Origin

- weights: sha256 `{decoder["sha256"]}`
- codec: `{decoder["codec"]}`, weights sha256 `{decoder["codec_sha256"]}`
- measured: {made["created"]}, commit `{made["git_commit"]}`, configuration {made["config_digest"]}
- versions: {", ".join(f"{name} {version}" for name, version in made["versions"].items())}
"""
    # A codec's name has a slash where it is the hub's.
    base_model = decoder["codec"] if "/" in decoder["codec"] else None
    return measured_card(body, f"{recordings}, {clips}", _card_numbers(summary), base_model)


def _card_numbers(summary: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    """Metric -> the decoder's own number and its name with the interval, where it was measured."""
    numbers = {}
    for metric, words in METRIC_NAMES.items():
        interval = summary["systems"][OURS][metric]
        if interval["mean"] is not None:
            value = round(interval["mean"], digits(metric) + 1)
            numbers[metric] = value, f"{words} {describe_interval(interval, digits(metric))}"
    return numbers


def _card_table(summary: Mapping[str, Any]) -> str:
    opinions = told_by(summary).get("systems", {})
    names = [*METRIC_NAMES.values(), *(["ViSQOL"] if opinions else [])]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for system, metrics in summary["systems"].items():
        cells = [describe_interval(metrics[metric], digits(metric)) for metric in METRIC_NAMES]
        if opinions:
            cells.append(describe_interval(opinions[system]) if system in opinions else "–")
        lines.append(f"| {SYSTEM_NAMES[system]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

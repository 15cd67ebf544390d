"""The model card: what the hub reads in the YAML header of README.md, and what people read below.

`evaluate_decoder` writes an export's README.md with the numbers in its header. Whatever else the
header holds when it is pushed, an author's own words included, stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import huggingface_hub

from ttt.errors import UserError

LIBRARY = "ttt-speech"
TASK = "audio-to-audio"
TAGS = ("snac", "48khz", "neural-audio-codec", "speech", "vocoder")
PLACEHOLDERS = '"path/to/this/folder"', '"this folder"'
"""What stands in a card in place of the repository's name until there is one."""


def measured_card(
    body: str, data: str, numbers: Mapping[str, tuple[float, str]], base_model: str | None
) -> str:
    """`body` under a header that says what an evaluation measured on `data`.

    `numbers` are metric -> (value, name with interval); without any the header names none.
    """
    results = [
        huggingface_hub.EvalResult(
            task_type=TASK,
            dataset_type="recordings",
            dataset_name=data,
            metric_type=metric,
            metric_value=value,
            metric_name=words,
        )
        for metric, (value, words) in numbers.items()
    ]
    fields: dict[str, Any] = {} if base_model is None else {"base_model": base_model}
    if results:
        told = huggingface_hub.ModelCardData(
            model_name="48 kHz decoder", eval_results=results
        ).to_dict()
        fields |= {"metrics": list(numbers), "model-index": told["model-index"]}
    return _with_header(_complete(fields), body)


def hub_card(
    readme: str | None, repo: str, *, license: str | None, base_model: str | None = None
) -> str:
    """README.md as it goes to the repository `repo`: `readme` with a complete header.

    `license`, the hub's identifier, and `base_model`, the codec's name on the hub, are by default
    the header's. Raises UserError without a license or when the header cannot be read.
    """
    fields, body = split_card(readme or "# A 48 kHz decoder for SNAC 24 kHz codes\n")
    license = license or fields.get("license")
    if license is None:
        raise UserError(
            "license is not set, and none is assumed; give the hub's identifier of the license "
            "that these weights may be used under, such as license=apache-2.0, cc-by-4.0 or mit"
        )
    check_license(license)
    base_model = base_model or fields.get("base_model")
    fields = _complete({**fields, "license": license, "base_model": base_model})
    for index in fields.get("model-index") or []:
        index["name"] = repo.partition("/")[2]
    for placeholder in PLACEHOLDERS:
        body = body.replace(placeholder, f'"{repo}"')
    return _with_header(fields, body.lstrip("\n"))


def check_license(license: str) -> None:
    """Raise UserError unless `license` is written as the hub writes its identifiers."""
    if not isinstance(license, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(
            f"license {license!r}: give the hub's identifier, in small letters without spaces, "
            "such as apache-2.0, cc-by-4.0 or mit (other: and license_name in README.md's header)"
        )


def split_card(readme: str) -> tuple[dict[str, Any], str]:
    """The fields of a card's header, none without one, and the text below. Raises UserError."""
    if not readme.startswith("---"):
        return {}, readme
    try:
        card = huggingface_hub.ModelCard(readme)
        return card.data.to_dict(), card.text
    except Exception as error:  # PyYAML's errors have no other base, and ttt knows no YAML.
        told = " ".join(str(error).split())[:200]
        raise UserError(f"README.md: its header cannot be read ({told}); correct it") from error


def measured_weights(body: str) -> str | None:
    """The hash of the weights that the card of an evaluation is about."""
    found = re.search(r"^- weights: sha256 `([0-9a-f]{64})`$", body, re.MULTILINE)
    return None if found is None else found[1]


def _complete(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields in their order, with what is the same for every decoder of this project."""
    tags = fields.get("tags") or []
    ours = {"license": None, "library_name": LIBRARY, "pipeline_tag": TASK, "base_model": None}
    found = {**ours, **{key: value for key, value in fields.items() if value is not None}}
    found["tags"] = [*TAGS, *(tag for tag in tags if tag not in TAGS)]
    last = {key: found.pop(key) for key in ("metrics", "model-index") if key in found}
    return {key: value for key, value in {**found, **last}.items() if value is not None}


def _with_header(fields: dict[str, Any], body: str) -> str:
    text = huggingface_hub.ModelCardData(**fields).to_yaml(original_order=list(fields))
    return f"---\n{text}\n---\n\n{body}"

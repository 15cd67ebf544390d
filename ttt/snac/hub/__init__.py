"""Decoders on the Hugging Face hub: names, fetching, the model card, pushing.

    folder = fetch_export("USER/NAME@REVISION").folder          # from the cache, else from the hub
    url = push_export(folder, "USER/NAME", license="apache-2.0")

huggingface_hub does the talking: HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they
mean to it. A token is never an argument here, and no sentence shows one. Its functions are
attributes of the package, which imports them, and YAML, only when they are called.

Names are imported when they are first asked for: a card is written without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttt.snac.hub.card import hub_card, split_card
    from ttt.snac.hub.download import FetchedExport, export_folder, fetch_export
    from ttt.snac.hub.names import is_hub_name
    from ttt.snac.hub.upload import Destination, check_export, look_at, push, push_export

__all__ = [
    "Destination",
    "FetchedExport",
    "check_export",
    "export_folder",
    "fetch_export",
    "hub_card",
    "is_hub_name",
    "look_at",
    "push",
    "push_export",
    "split_card",
]

_HOMES = {
    "Destination": "upload",
    "FetchedExport": "download",
    "check_export": "upload",
    "export_folder": "download",
    "fetch_export": "download",
    "hub_card": "card",
    "is_hub_name": "names",
    "look_at": "upload",
    "push": "upload",
    "push_export": "upload",
    "split_card": "card",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

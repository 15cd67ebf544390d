"""Decoders on the Hugging Face hub: names, fetching, the model card, pushing.

    folder = fetch_export("USER/NAME@REVISION").folder          # from the cache, else from the hub
    url = push_export(folder, "USER/NAME", license="apache-2.0")

huggingface_hub does the talking: HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they
mean to it. A token is never an argument here, and no sentence shows one. Its functions are
attributes of the package, which imports them, and YAML, only when they are called.
"""

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

"""Moshi with test-time training layers: inserted into the published model, evaluated streaming."""

from ttt.moshi.insert import insert_ttt
from ttt.moshi.tiny import tiny_lm
from ttt.moshi.ttt_files import load_ttt, save_ttt

__all__ = ["insert_ttt", "load_ttt", "save_ttt", "tiny_lm"]

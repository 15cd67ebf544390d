"""Moshi with test-time training layers: inserted into the published model, evaluated streaming."""

from ttt.moshi.insert import insert_ttt
from ttt.moshi.streaming.evaluate import ChapterNLL, Evaluation, evaluate_codes
from ttt.moshi.streaming.session import Session
from ttt.moshi.tiny import tiny_lm
from ttt.moshi.ttt_files import load_ttt, save_ttt

__all__ = [
    "ChapterNLL",
    "Evaluation",
    "Session",
    "evaluate_codes",
    "insert_ttt",
    "load_ttt",
    "save_ttt",
    "tiny_lm",
]

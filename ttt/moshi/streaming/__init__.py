"""Moshi heard step by step: delays, state, sessions and the evaluation over them."""

"""Chapters to a cache of codes: plan, encoder, driver."""

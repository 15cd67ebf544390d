"""Ours and every peer behind one protocol, and what each peer needs installed."""

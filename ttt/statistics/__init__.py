"""Intervals for few units: means, ratios, shares and their distributions."""

"""The evaluations of Moshi: what is shared by chapters and pairs, and both together."""

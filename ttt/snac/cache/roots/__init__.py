"""Roots: where people's clips lie, of any kind, as a list of inputs that each know their place."""

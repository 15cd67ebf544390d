"""One file per benchmark: what its layout on disk is, and which recordings make a pair.

A task is a module with a TITLE and `find(root, gold) -> PairSet`. Its name is the module's.
"""

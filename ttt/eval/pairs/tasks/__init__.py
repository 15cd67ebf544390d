"""One file per benchmark: what its layout on disk is, and what each recording is in it.

A task is a module with a TITLE, HAS_GOLD (whether a gold table says what is correct) and
`candidates(root, gold)`, which yields every recording; its name is the module's.
`ttt.eval.pairs.find.find_pairs` makes the pairs.
"""

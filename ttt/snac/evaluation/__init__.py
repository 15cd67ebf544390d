"""What the evaluator and its verdict are made of: systems, tricks, units, comparisons, words."""

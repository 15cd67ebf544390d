"""SNAC's layers as we run them: the same parameters and outputs, but cheaper to train."""

"""A cache of whole chapters as codes: written once, read by the frame."""

"""Validation of a training in Moshi: held-out chapters, heard as an evaluation hears the export."""

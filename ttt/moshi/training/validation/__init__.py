"""Validation of a training in Moshi: held-out speakers, heard as an evaluation hears the export."""

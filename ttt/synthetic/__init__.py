"""Speech, chapters, pairs and a codec made from seeds, for tests, demo and first steps."""

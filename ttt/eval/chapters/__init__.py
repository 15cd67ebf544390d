"""Whole chapters: found on disk, heard frame by frame, summarised by position."""

"""Sound files as they are: what their headers claim is compared with the bytes that follow.

libsndfile believes headers. It reads an MP3 file without a length for as long as its size suggests,
the first of two joined streams, no sample of a WAV file whose writer was killed, and says that a
FLAC file of unknown length lasts for millions of years. `parts` finds these before they are read,
and hands libsndfile either the same bytes, or the same audio under a header that is true.
"""

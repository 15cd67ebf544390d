"""Training the 48 kHz decoder: which windows, which loss, in which order."""

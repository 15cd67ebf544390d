"""A training of the decoder: plan, in-process loop, Ray Train, trackers."""

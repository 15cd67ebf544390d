"""What training leaves, and the model in training as others will hear it."""

"""What is measured on Moshi, and how: chapters in, records of every frame, summaries from them."""

"""The cache of full-length codes and 48 kHz targets: written shard by shard, read by window."""

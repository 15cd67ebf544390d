"""What every job stands on: command line, run folder, Ray, the driver of items, progress."""

"""An evaluation of decoders: plan, clips, driver, ViSQOL."""

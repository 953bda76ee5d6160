"""Images as they lie, in whatever layout: what is there, cut into parts that are read in turn."""

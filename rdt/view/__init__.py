"""A local page over any folder of runs, which follows them while they train."""

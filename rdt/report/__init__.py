"""Reports any set of runs as tables, figures and a page with their points, fronts and limits."""

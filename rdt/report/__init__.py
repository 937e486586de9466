"""The report over any set of runs: tables, figures and a page of their points, fronts and limits."""

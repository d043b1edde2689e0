"""Console output and logger output of a run."""

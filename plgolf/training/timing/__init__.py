"""The clock of a run, its pace, and signals."""

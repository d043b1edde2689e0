"""When checkpoints are written, how they are stored, and what a resumed run must match."""

"""What a run prints and gives to loggers."""

"""Tensors in files that others made: unpickled here alone, and nothing in them is run."""

from plgolf.tensor_file.reading import load_tensors
from plgolf.tensor_file.records import MAX_PICKLE_BYTES

__all__ = ["MAX_PICKLE_BYTES", "load_tensors"]

"""Reads tensor files of others without running code from them; nothing else in plgolf unpickles."""

from plgolf.tensor_file.reading import load_tensors
from plgolf.tensor_file.records import MAX_PICKLE_BYTES

__all__ = ["MAX_PICKLE_BYTES", "load_tensors"]

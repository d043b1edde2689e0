"""How good a model is, in bits per byte."""

from plgolf.evaluate.bits_per_byte import BitsPerByte, bits_per_byte

__all__ = ["BitsPerByte", "bits_per_byte"]

"""The command line and its YAML files: what they may say, help, and mistakes in one line."""

from plgolf.arguments.bounded_yaml import read_settings
from plgolf.arguments.parsing import OneLineErrors

__all__ = ["OneLineErrors", "read_settings"]

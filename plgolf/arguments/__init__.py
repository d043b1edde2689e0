"""The command line and its YAML files: settings, help, and mistakes in one line."""

from plgolf.arguments.bounded_yaml import read_settings
from plgolf.arguments.parsing import SettingsParser

__all__ = ["SettingsParser", "read_settings"]

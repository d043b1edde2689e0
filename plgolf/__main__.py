"""``python -m plgolf``."""

from plgolf.cli import entry

entry()

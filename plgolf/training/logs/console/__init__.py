"""The styles of ``--console``."""

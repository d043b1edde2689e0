"""The end of a run: export, round-trip score, result.json."""

"""Ranks that die, and losses or gradients that are not finite."""

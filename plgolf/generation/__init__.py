"""Uses a model: generates text, and scores a text."""

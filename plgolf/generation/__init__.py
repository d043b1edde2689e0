"""Using a model: text from it, and the score of a text."""

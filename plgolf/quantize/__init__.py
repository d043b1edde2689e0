"""From tensors to few bytes and back."""

"""Codecs of tensors, coders of bytes, and the plan that gives every tensor its codec."""

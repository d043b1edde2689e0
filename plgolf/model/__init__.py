"""The architecture. Needs torch only."""

from plgolf.model.attention import AttentionConfig
from plgolf.model.gpt import GPT, GPTConfig
from plgolf.model.head import HeadConfig
from plgolf.model.mlp import MLPConfig

__all__ = ["GPT", "AttentionConfig", "GPTConfig", "HeadConfig", "MLPConfig"]

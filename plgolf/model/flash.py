"""FlashAttention 3 and 4 instead of PyTorch's own flash kernel, where one of them is installed."""

from contextlib import suppress

from torch.nn import attention


def use_installed(capability: tuple[int, int]) -> str | None:
    """Has PyTorch use the newest that is installed and made for a GPU, in this whole process.

    Args:
        capability: the GPU's.

    Returns:
        ``FA4`` (https://github.com/Dao-AILab/flash-attention, flash_attn.cute) or ``FA3``
        (https://arxiv.org/abs/2407.08608, flash_attn_interface); None if PyTorch's own stays.
    """
    made_for_it = {9: ("FA4", "FA3"), 10: ("FA4",)}.get(capability[0], ())
    for name in made_for_it:
        # Not installed, or in no version that PyTorch knows; before 2.10 PyTorch knew neither.
        with suppress(ImportError, OSError, RuntimeError, AttributeError, ValueError):
            attention.activate_flash_attention_impl(name)
            return name
    return None


def in_use() -> str | None:
    """Returns what has taken the place of PyTorch's own flash kernel; None if nothing has."""
    ask = getattr(attention, "current_flash_attention_impl", None)
    name: str | None = ask() if ask else None
    return name

"""How a report looks: ``page.css``, and the colours of tokens by their loss."""

from pathlib import Path

HEAT_STEPS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Nats at which a token's colour changes."""
_OPACITIES = (0.0, 0.05, 0.11, 0.18, 0.26, 0.35, 0.45, 0.56, 0.68, 0.82)
assert len(_OPACITIES) == len(HEAT_STEPS) + 1


def stylesheet() -> str:
    """Returns the style of a page: one column on a phone, two on a screen, light and dark."""
    page = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    heat = (
        f".n{i} {{ background: rgba(var(--heat), {opacity}); }}\n" for i, opacity in enumerate(_OPACITIES)
    )
    return page + "".join(heat)


def heat_class(nats: float) -> str:
    """Returns the class of a token's colour."""
    return f"n{sum(nats >= step for step in HEAT_STEPS)}"

"""Commands that errors name as the next step."""

import re
from pathlib import Path


def how_to_get(root: Path) -> str:
    """Names the command that makes a dataset's folder.

    >>> how_to_get(Path("data/datasets/fineweb10B_sp1024"))
    'plgolf data download sp1024 fetches it'
    """
    published = re.fullmatch(r"fineweb10B_(\w+)", root.name)
    if published:
        return f"plgolf data download {published[1]} fetches it"
    return f"plgolf data prepare FILES --root {root} builds one"

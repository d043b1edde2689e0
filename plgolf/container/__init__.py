"""plgolf's own artifact format: magic, a JSON header, compressed streams, a checksum.

Every tensor has a codec of its own. Reading never runs code from the file, and checks every size before it
builds anything. docs/artifact.md describes the format byte by byte.
"""

from plgolf.container.reading import Contents, read_container
from plgolf.container.writing import Container

__all__ = ["Container", "Contents", "read_container"]

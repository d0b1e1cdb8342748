"""Files that a benchmark is to write, tried before its minutes."""

import tempfile
from pathlib import Path


def why_not(target: Path) -> str | None:
    """What keeps `target` from being written; None when nothing does. Leaves nothing behind."""
    if not target.parent.is_dir():
        return f"{target}: there is no folder {target.parent}"
    if target.exists() and not target.is_file():
        return f"{target}: is not a regular file"
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent):
            return None
    except OSError as error:
        return f"{target}: cannot be written: {error.strerror}"

"""Where Python looks for a user's own modules, which a config's ``custom_imports`` or ``--import`` name."""

from __future__ import annotations

import sys
from pathlib import Path


def see_folder(folder: Path) -> None:
    """Let Python find modules in a folder; last, so that they hide no others."""
    if folder not in {Path(part).resolve() for part in sys.path}:
        sys.path.append(str(folder))

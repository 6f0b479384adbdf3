"""Where Python looks for a user's own modules, which a config's ``custom_imports`` or ``--import`` name."""

from __future__ import annotations

import os
import sys


def see_folder(folder: str | None = None) -> None:
    """Let Python find modules in a folder, else in the current one as under ``python -m``; last, to hide nothing."""
    here = os.getcwd()
    folder = folder or here
    if not ({"", folder} if folder == here else {folder}) & set(sys.path):
        sys.path.append(folder)

"""Where fa-doctor keeps what is the user's: also for a user without a home, and where nothing can be written."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "configuration_folder"]


def cache_folder() -> Path:
    """For what can be made again (XDG_CACHE_HOME/fa-doctor); without a home a folder of the user's in /tmp."""
    import platformdirs

    try:
        return Path(platformdirs.user_cache_dir("fa-doctor"))
    except (RuntimeError, KeyError):  # no HOME, and no passwd entry that would name one
        return Path(f"/tmp/fa-doctor-{os.getuid()}")


def configuration_folder() -> Path:
    """For what the user set (XDG_CONFIG_HOME/fa-doctor); without a home /etc/fa-doctor."""
    import platformdirs

    try:
        return Path(platformdirs.user_config_dir("fa-doctor"))
    except (RuntimeError, KeyError):
        return Path("/etc/fa-doctor")

"""What became of one attempt at a feature of somebody else's attention."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Ignored", "Missing", "outcome"]


class Ignored(Exception):
    """The result is that of the call without the feature."""


class Missing(Exception):
    """There is no such function."""


def outcome(attempt: Callable[[], str]) -> dict[str, str]:
    """{"state": "right"|"wrong"|"ignored"|"raises"|"missing", "text": what the attempt returned or raised}."""
    try:
        return {"state": "right", "text": attempt()}
    except Ignored as error:
        return {"state": "ignored", "text": str(error)}
    except Missing as error:
        return {"state": "missing", "text": str(error)}
    except AssertionError as error:
        return {"state": "wrong", "text": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever somebody else's library raises is its answer
        return {"state": "raises", "text": f"{type(error).__name__}: {str(error)[:500]}"}

"""One line and an exit code for a custom plugin of Kubernetes' node-problem-detector.

The plugin protocol: exit status 0 OK, 1 not OK, 2 unknown; of the output only `max_output_length` bytes are kept, 80
unless configured otherwise (kubernetes/node-problem-detector, docs/custom_plugin_monitor.md).
"""

from __future__ import annotations

from fa_doctor.report.document import Document

__all__ = ["MESSAGE_LIMIT", "exit_code", "render"]

MESSAGE_LIMIT = 80  # bytes


def render(document: Document) -> str:
    """At most 80 bytes of ASCII: the first failure (how many more), or that the node is healthy."""
    worst = [
        finding
        for status in ("fail", "unknown")
        for finding in document["findings"]
        if finding["status"] == status and finding["ignored"] is None
    ]
    status = document["summary"]["status"]
    if status in ("pass", "warn"):
        message = "FlashAttention stack healthy"
    elif not worst:
        message = "FlashAttention stack not healthy"
    else:
        more = f" (+{len(worst) - 1})" if len(worst) > 1 else ""
        message = f"{worst[0]['id']} {worst[0]['title']}"
        room = MESSAGE_LIMIT - len(more)
        message = (message if len(message) <= room else message[: room - 3] + "...") + more
    return message.encode("ascii", "replace").decode("ascii")[:MESSAGE_LIMIT] + "\n"


def exit_code(document: Document) -> int:
    """0 OK, 1 not OK, 2 unknown."""
    return {"pass": 0, "warn": 0, "fail": 1, "unknown": 2}[document["summary"]["status"]]

"""One line of JSON per event; names, digests and errors, never a body or a key."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Any, Final, TextIO

__all__ = ["log_event", "write_logs_to"]

_LOGGER: Final = logging.getLogger("hre_torch.services")
_FIELDS: Final = "hre_fields"


def log_event(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event.

    Args:
        event: what happened, in words that stay the same.
        level: of `logging`.
        fields: short facts: names, numbers, the start of a digest.
    """
    _LOGGER.log(level, event, extra={_FIELDS: fields})


def write_logs_to(stream: TextIO = sys.stderr, *, level: int = logging.INFO) -> None:
    """Write the servers' events, warnings and what uvicorn complains of as JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JSONFormatter())
    for name, least in (("hre_torch.services", level), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False
    warnings.showwarning = _log_warning


def _log_warning(
    message: Warning | str, category: type[Warning], *place: object, **more: object
) -> None:
    log_event(
        "warning",
        level=logging.WARNING,
        reason=category.__name__,
        message=str(message),
    )


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, _FIELDS, {})
        if record.exc_info and record.exc_info[0] is not None:
            # The traceback's source lines may name secrets; the class may not.
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line, default=str)

"""One line of JSON per event; names, digests and errors, never a body or a key."""

from __future__ import annotations

import json
import logging
import sys
import threading
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
    """Write everything that anybody says in this process as lines of JSON.

    Events of the servers, what libraries complain of, warnings, and exceptions that
    nobody caught, in whatever thread.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JSONFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(level)
    # It warns of every odd request, and answers these.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    warnings.showwarning = _log_warning
    sys.excepthook = lambda kind, error, trace: _log_uncaught(kind)
    threading.excepthook = lambda uncaught: _log_uncaught(uncaught.exc_type)
    sys.unraisablehook = lambda uncaught: _log_uncaught(uncaught.exc_type)


def _log_uncaught(kind: type[BaseException]) -> None:
    # Its message and traceback may name secrets; the class may not.
    log_event("uncaught", level=logging.ERROR, exception=kind.__name__)


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
            "event": _event_of(record.getMessage()),
        }
        line |= getattr(record, _FIELDS, {})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line, default=str)


def _event_of(message: str) -> str:
    """Return the line of a message that names no values.

    asyncio shows exceptions after its first line, and uvicorn says a whole traceback,
    which ends with one; only its class is kept.
    """
    lines = message.splitlines() or [""]
    if lines[0].startswith("Traceback"):
        return lines[-1].partition(":")[0]
    return lines[0]

"""What the server writes to standard error: one line an event, as text or JSON.

Network addresses are personal data and stay out, except at level debug. Secrets never get in.
"""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SECRET: Final = frozenset({"secret", "token", "access_token", "authorization", "pwd", "password", "key_material"})
ADDRESS: Final = frozenset({"address", "addresses", "candidate", "host", "ip", "local", "peer_address", "remote"})

log = structlog.get_logger("triosfu")


def configure(*, level: str = "info", json: bool = False, stream: TextIO | None = None, for_good: bool = False) -> None:
    """Log events of `level` and above to `stream` (standard error), for this process, from now on.

    If this is `for_good`, loggers ask but once how: what is not logged then costs a quarter.
    """
    number = _configure_structlog(level, json, stream, for_good=for_good)
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_Forward()], force=True)


def configure_by_default(*, level: str, json: bool) -> None:
    """The same for our own events only, and only if nobody has configured structlog.

    For a server inside another program: structlog by itself would show tracebacks with their local variables.
    """
    if not structlog.is_configured():
        _configure_structlog(level, json, None)


def _configure_structlog(level: str, json: bool, stream: TextIO | None, *, for_good: bool = False) -> int:  # noqa: FBT001  for the two above
    number = logging.getLevelNamesMapping()[level.upper()]
    hidden = SECRET if number <= logging.DEBUG else SECRET | ADDRESS

    def conceal(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name in hidden & event.keys():
            event[name] = "…"
        return event

    writer = lru_cache(maxsize=1)(structlog.WriteLogger)  # each call asks for one, also if nothing is written

    def logger(*_: object) -> structlog.WriteLogger:
        return writer(stream or sys.stderr)  # which may be another one by now

    renderer: structlog.typing.Processor
    if json:
        renderer = structlog.processors.JSONRenderer()
    else:
        # Its usual tracebacks show local variables, and with them tokens and addresses.
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty(), exception_formatter=plain)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            conceal,
            *([structlog.processors.format_exc_info] if json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=logger,
        cache_logger_on_first_use=for_good,
    )
    return number


class _Forward(logging.Handler):
    """Passes on what libraries log by the standard library: trio when it runs out of descriptors, for one."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)

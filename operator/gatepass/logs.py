"""Logs: JSON for machines, colours for a terminal; everything goes through structlog, kopf's too."""

import logging
import sys
from typing import Literal

import structlog


def configure(log_format: Literal["auto", "json", "console"], level: str) -> None:
    """Set the format and the level of all logs of the process."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _once,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # kopf tells every event of every object, and botocore every detail of a request: too much, and too near to secrets.
    for name in ("alembic", "kopf", "botocore", "boto3", "urllib3", "asyncio", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _once(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """uvicorn's messages come a second time, for terminals."""
    event.pop("color_message", None)
    return event


def warnings_only() -> None:
    """For a command whose output is its own: nothing but warnings, on stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

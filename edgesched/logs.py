"""Logs are events with fields: `log.info("task.dispatched", extra={"task_id": ...})`.

They go to stderr and, with a log directory, to one rotating file per process (`<process>.log`), so that two processes
never rotate the same file.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

from edgesched.errors import StartupError, visible

ROTATE_BYTES = 20 * 1024 * 1024
ROTATE_FILES = 5
MAX_CAUSE_CHARS = 200

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`12:30:01.250 INFO  task.dispatched task_id=… device_id=…`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        line = f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `at` (ISO 8601, UTC), `level`, `event`, `logger`, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, object] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _plain(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return visible(json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "\n=') else text)


def malformed_in_one_line(record: logging.LogRecord) -> bool:
    """A filter for aiohttp's server: what it cannot read of a request is the client's fault, and no traceback of ours.

    Its own exceptions are told apart by their module, so that processes without HTTP need not import it.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and type(error).__module__.startswith("aiohttp."):
        if isinstance(record.args, tuple) and record.args:
            vars(record)["client"] = record.args[0]
        vars(record)["cause"] = " ".join(str(error).split())[:MAX_CAUSE_CHARS]
        record.msg, record.args, record.exc_info = "request.malformed", (), None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def configure(process: str, *, level: str, log_format: str, log_dir: Path | None) -> None:
    """Set up the root logger of this process.

    process: the name of its log file, `<process>.log`; an agent adds its device id.
    Raises: StartupError if the log directory cannot be written.
    """
    formatter: logging.Formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_dir is not None:
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            handlers.append(
                logging.handlers.RotatingFileHandler(
                    log_dir / f"{process}.log",
                    maxBytes=ROTATE_BYTES,
                    backupCount=ROTATE_FILES,
                    encoding="utf-8",
                )
            )
        except OSError as error:
            raise StartupError(f"--log-dir {log_dir}: cannot be written: {error.strerror}") from error
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    logging.captureWarnings(True)
    logging.getLogger("aiohttp.server").addFilter(malformed_in_one_line)
    for noisy in ("grpc", "asyncio", "aiohttp.access", "watchdog"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

"""Every default and every limit, one frozen object per process, checked once at the door.

A value comes from the first of: command-line flag, environment (`EDGESCHED_<FIELD>`), configuration file, default.
All processes share one flat set of field names: a name that several of them have means the same thing everywhere.
(pydantic-settings merges the same layers, but cannot say which of them a value came from, and people ask.)
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, field_validator

from edgesched.errors import StartupError, nearest, plain

ENV_PREFIX = "EDGESCHED_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"

Port = Annotated[int, Field(ge=0, le=65535)]  # 0: the operating system chooses one
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
StrategyName = str  # checked by placement, which owns the list

HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^:/\[\]\s]+):(?P<port>[0-9]{1,5})")
HOST_NAME = re.compile(r"[^:/\[\]\s@?#]+")
MIB = 1024 * 1024


def is_http_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no such port, or half an IPv6 address
        return False


def is_host(value: str) -> bool:
    """A name, an IPv4 address, or an IPv6 address with or without its brackets."""
    try:
        return bool(HOST_NAME.fullmatch(value) or IPv6Address(value.removeprefix("[").removesuffix("]")))
    except ValueError:
        return False


class ProcessSettings(BaseModel):
    """What every process has."""

    # A process has the settings of one kind: their checks are compiled at first use.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    file_stems: ClassVar[tuple[str, ...]] = ()
    """Names (without .toml) of this process's files in a configuration directory."""

    common_variables: ClassVar[Mapping[str, str]] = {}
    """Field -> a variable without our prefix that sets it too, because people know it; ours wins."""

    log_dir: Path | None = Field(None, description="write one rotating log file per process here, beside stderr")
    log_level: LogLevel = Field("info", description="least severe level that is logged")
    log_format: LogFormat = Field("text", description="text for people, json for machines")


class ListeningSettings(ProcessSettings):
    host: str = Field("127.0.0.1", description="address to listen on; there is no authentication yet")


class TracedSettings(ProcessSettings):
    """Of a process that can export traces."""

    common_variables: ClassVar[Mapping[str, str]] = {"otlp_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT"}

    otlp_endpoint: str | None = Field(
        None,
        description="a collector of OpenTelemetry traces (OTLP over gRPC), also OTEL_EXPORTER_OTLP_ENDPOINT; "
        "needs edgesched[otel]; default: no traces",
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_collector(cls, value: str | None) -> str | None:
        if not value:  # by OpenTelemetry's rules an empty variable counts as unset
            return None
        if not is_http_url(value):
            raise ValueError("give http://HOST:PORT, like http://192.168.1.5:4317")
        return value


class TaskManagerSettings(ListeningSettings, TracedSettings):
    """Tasks: intake, ledger, dispatch, delivery."""

    file_stems: ClassVar[tuple[str, ...]] = ("task_manager",)

    grpc_port: Port = Field(9999, description="gRPC port for clients")
    strategy: StrategyName | None = Field(
        None, description="placement strategy; overrides the gateway's default when given"
    )
    upload_path: Path = Field(
        Path("workspace/master/data/upload"), description="where pictures are kept while they are needed"
    )
    ledger_path: Path = Field(Path("workspace/master/ledger.sqlite3"), description="the ledger's database file")
    models_dir: Path = Field(
        Path("models"), description="one directory per model; the built-in demo model is always there"
    )
    gateway_url: str = Field("http://127.0.0.1:6666", description="the gateway, when it is another process")
    durability: Literal["power", "process"] = Field(
        "power", description="what an acknowledged task survives: a power cut, or only the death of a process"
    )
    max_picture_bytes: PositiveInt = Field(
        16 * MIB, le=63 * MIB, description="a larger picture is refused; one message carries at most 64 MiB"
    )
    max_picture_megapixels: PositiveInt = Field(64, description="a picture with more pixels is refused")
    max_queued_tasks: PositiveInt = Field(100_000, description="more open tasks than this are refused for now")
    max_queued_bytes: PositiveInt = Field(20_000 * MIB, description="more bytes of open tasks are refused for now")
    min_free_disk_bytes: PositiveInt = Field(512 * MIB, description="below this new tasks are refused for now")
    max_attempts: PositiveInt = Field(3, description="failures that a task may cause before it is a dead letter")
    attempt_timeout_ms: PositiveInt = Field(60_000, description="longest time that one attempt may take on a board")
    retry_backoff_ms: PositiveInt = Field(500, description="pause before the first retry; doubles with each one")
    reconnect_grace_ms: PositiveInt = Field(2_000, description="how long a broken stream keeps its tasks")
    drain_timeout_ms: PositiveInt = Field(
        10_000, description="when told to stop: longest wait for what is on the boards; the rest is taken up again"
    )
    delivery_grace_ms: PositiveInt = Field(
        4_000, description="after this without a board's delivery report the task manager delivers by itself"
    )
    image_retention_s: PositiveInt = Field(24 * 3600, description="pictures of settled tasks are kept this long")
    image_retention_bytes: PositiveInt = Field(2_000 * MIB, description="and at most this many bytes of them")
    task_retention_s: PositiveInt = Field(7 * 24 * 3600, description="rows of settled tasks are kept this long")
    key_retention_s: PositiveInt = Field(
        7 * 24 * 3600,
        description="a submission key is remembered as long as its task's row, and this long after it: the same "
        "submission sent again until then is the same task",
    )
    keep_upload: bool = Field(
        False, description="never let a settled task's picture go, nor the row that names it; the disk fills up"
    )

    @field_validator("gateway_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not is_http_url(value):
            raise ValueError("give http://HOST:PORT, like http://192.168.1.5:6666")
        return value


class GatewaySettings(ListeningSettings):
    """The fleet: registry, heartbeats, placement, REST."""

    file_stems: ClassVar[tuple[str, ...]] = ("gateway",)

    http_port: Port = Field(6666, description="HTTP port for agents and programs")
    browser_port: Port | None = Field(
        8080,
        description="the same on a port that browsers allow (they refuse 6666); a taken one is only a warning",
    )
    strategy: StrategyName | None = Field(None, description="default placement strategy (load)")
    load_cpu_weight: float = Field(
        0.001, ge=0, le=1, description="seconds of work that a fully used CPU counts for between equals under `load`"
    )
    load_xpu_weight: float = Field(
        0.001, ge=0, le=1, description="the same for a fully used accelerator, 0 to ignore it"
    )
    task_manager: str = Field("127.0.0.1:9999", description="the task manager, when it is another process")
    heartbeat_interval_ms: PositiveInt = Field(2_000, description="how often agents are told to report")
    heartbeat_timeout_ms: PositiveInt = Field(6_000, description="a device silent for longer gets no work")
    gateway_state_path: Path | None = Field(
        None,
        description="what operators set and what was known of each device; "
        "default: workspace/master/gateway.sqlite3, of `up` gateway.sqlite3 beside the ledger",
    )
    archive_after_s: PositiveInt = Field(24 * 3600, description="a device silent for longer is archived")

    @field_validator("task_manager")
    @classmethod
    def _is_address(cls, value: str) -> str:
        match = HOST_AND_PORT.fullmatch(value)
        if match is None or not 0 < int(match["port"]) <= 65535:
            raise ValueError("give HOST:PORT, like 192.168.1.5:9999")
        return value

    @property
    def state_path(self) -> Path:
        return self.gateway_state_path or Path("workspace/master/gateway.sqlite3")


class UpSettings(TaskManagerSettings, GatewaySettings):
    """Task manager and gateway in one process."""

    file_stems: ClassVar[tuple[str, ...]] = ("task_manager", "gateway")

    @property
    def state_path(self) -> Path:
        return self.gateway_state_path or self.ledger_path.with_name("gateway.sqlite3")


class AgentSettings(ListeningSettings):
    """One board."""

    file_stems: ClassVar[tuple[str, ...]] = ("agent",)
    common_variables: ClassVar[Mapping[str, str]] = {"workers": "WORKER_CONCURRENCY", "total_cpus": "TOTAL_CPUS"}

    agent_port: Port = Field(20810, description="gRPC port, dialled by the task manager")
    metrics_port: Port | None = Field(
        None,
        description="HTTP port for a Prometheus that asks boards themselves; none: only the gateway's",
    )
    master_ip: str = Field("127.0.0.1", description="the gateway's address")
    master_port: Port = Field(6666, description="the gateway's HTTP port")
    master_url: str | None = Field(None, description="the gateway's URL; instead of master_ip and master_port")
    advertise: str | None = Field(
        None,
        description="HOST:PORT under which the task manager reaches this agent; default: what the gateway saw",
    )
    device: str | None = Field(None, description="board type; default: detected")
    device_id: str | None = Field(None, description="name of this device; default: made once and kept in workspace_dir")
    emulate: str | None = Field(None, description="be an emulated board of this type (atlas, rk3588, orin)")
    workspace_dir: Path = Field(Path("workspace/slave"), description="outbox, device id and state of this agent")
    models_dir: Path = Field(
        Path("models"), description="one directory per model; the built-in demo model is always there"
    )
    workers: PositiveInt | None = Field(
        None, description="worker processes, also WORKER_CONCURRENCY; default: one per slot of the board"
    )
    total_cpus: PositiveInt | None = Field(
        None, description="CPUs that the workers may use, also TOTAL_CPUS; more workers are warned of; default: counted"
    )
    backend: str | None = Field(None, description="use this backend for every model (echo: no work, for benches)")
    python_bin: str | None = Field(None, description="interpreter for the workers; default: the daemon's own")
    python_path: tuple[str, ...] = Field((), description="directories that the workers add to sys.path (a:b:c)")
    threads_per_worker: PositiveInt = Field(1, description="threads that one inference may use")
    worker_nice: int = Field(
        5, ge=0, le=19, description="how far the workers step back for short work, as that of this daemon (nice)"
    )
    worker_memory_bytes: PositiveInt = Field(
        2_000 * MIB, description="a worker that grows larger, its programs included, is replaced"
    )
    recovery_timeout_s: float = Field(
        600.0, gt=0, description="a worker that has not loaded its models by then is replaced; building engines is slow"
    )
    enable_auto_recovery: bool = Field(
        True, description="start workers again that ended; off: they stay down until an operator starts them"
    )
    max_restarts: NonNegativeInt = Field(
        5,
        description="restarts of one worker in restart_window_s without a finished task; then it is down for a minute",
    )
    restart_window_s: float = Field(60.0, gt=0, description="the time in which max_restarts are counted")
    stop_all_on_failure: bool = Field(
        False, description="when one worker is down, stop all: the board is unhealthy until an operator starts them"
    )
    zombie_after_s: float = Field(
        30.0, gt=0, description="a worker with work that shows neither progress nor CPU time for so long is replaced"
    )
    outbox_bytes: PositiveInt = Field(256 * MIB, description="outcomes kept on the board; a full outbox stops new work")
    disconnect_s: float | None = Field(None, gt=0, description="test: every so many seconds, cut all links, silently")
    reconnect_s: float = Field(20.0, gt=0, description="test: restore them each time after this many seconds")
    bandwidth_fluctuate: bool = Field(False, description="test: throttle the incoming link to a random 50-500 Mbit/s")

    @field_validator("python_path", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @field_validator("master_ip")
    @classmethod
    def _is_host(cls, value: str) -> str:
        if not is_host(value):
            raise ValueError("give the name or the IP address of the gateway's machine")
        return value

    @property
    def gateway_url(self) -> str:
        host = f"[{self.master_ip.strip('[]')}]" if ":" in self.master_ip else self.master_ip
        return (self.master_url or f"http://{host}:{self.master_port}").rstrip("/")


class ReceiverSettings(ListeningSettings):
    """Where labels arrive."""

    file_stems: ClassVar[tuple[str, ...]] = ("receiver",)

    receiver_port: Port = Field(8888, description="HTTP port that boards post labels to")
    result_dir: Path = Field(Path("workspace/client/data"), description="label files are written below it")


class SenderSettings(TracedSettings):
    """Who sends pictures."""

    file_stems: ClassVar[tuple[str, ...]] = ("sender",)

    task_manager_host: str = Field("127.0.0.1", description="the task manager's address")
    task_manager_port: Port = Field(9999, description="the task manager's gRPC port")
    picture_dir: Path = Field(Path("workspace/client/pictures"), description="pictures to send")
    max_pictures: PositiveInt | None = Field(None, description="send at most this many")
    sender_workers: PositiveInt = Field(8, description="pictures sent at the same time")
    model: str = Field("shapes", description="the model that labels them")
    receiver_url: str | None = Field(None, description="where labels are posted; none: ask later or wait")
    receiver_port: Port = Field(8888, description="port of the receiver on this machine, when no URL is given")
    deadline_s: float | None = Field(None, gt=0, description="a task without labels expires after so many seconds")
    priority: Literal["low", "normal", "high"] = Field(
        "normal", description="whose turn comes sooner while tasks wait; no priority starves another"
    )
    give_up_after_s: float = Field(300.0, gt=0, description="stop after so many seconds without any answer or news")
    client_state_dir: Path = Field(
        Path("workspace/client"), description="where this client keeps its own id, and what it needs to resume a run"
    )


PROCESSES: Mapping[str, type[ProcessSettings]] = {
    "up": UpSettings,
    "task-manager": TaskManagerSettings,
    "gateway": GatewaySettings,
    "agent": AgentSettings,
    "receive": ReceiverSettings,
    "send": SenderSettings,
}


SettingsT = TypeVar("SettingsT", bound=ProcessSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[SettingsT]):
    settings: SettingsT
    origins: Mapping[str, str]
    """Field -> "flag", "environment EDGESCHED_X", "file PATH" or "default"."""


def load(
    kind: type[SettingsT], *, config: Path | None = None, flags: Mapping[str, object] | None = None
) -> Loaded[SettingsT]:
    """Read one process's settings from all layers.

    config: a TOML file, or a directory with one TOML file per process; None: what EDGESCHED_CONFIG names, if set.
    flags: what the command line gave; None values count as not given.
    Raises: StartupError with every problem in one message (unknown key, bad value, misspelt variable).
    """
    problems = _misspelt_variables()
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    values: dict[str, object] = {}
    origins = dict.fromkeys(kind.model_fields, "default")

    for path in _config_files(kind, config):
        for key, value in _read_toml(path).items():
            if key not in kind.model_fields:
                problems.append(f"{path}: unknown key {key!r}{nearest(key, kind.model_fields)}")
                continue
            values[key], origins[key] = value, f"file {path}"
    for key in kind.model_fields:
        ours = f"{ENV_PREFIX}{key.upper()}"
        variable = ours if ours in os.environ else kind.common_variables.get(key, ours)
        if variable in os.environ:
            values[key], origins[key] = os.environ[variable], f"environment {variable}"
    for key, value in (flags or {}).items():
        if value is not None:
            values[key], origins[key] = value, "flag"

    try:
        settings: SettingsT | None = kind.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            key = str(item["loc"][0]) if item["loc"] else "settings"
            problems.append(f"{key} ({origins.get(key, 'settings')}): {plain(item['msg'])}, got {item['input']!r}")
        settings = None
    if problems or settings is None:
        raise StartupError("the settings are not usable:\n" + "\n".join(f"  - {p}" for p in problems))
    return Loaded(settings=settings, origins=origins)


def _misspelt_variables() -> list[str]:
    known = {f"{ENV_PREFIX}{name.upper()}" for kind in PROCESSES.values() for name in kind.model_fields}
    known.add(CONFIG_VARIABLE)
    return [
        f"environment: no process knows {name}{nearest(name, known)}"
        for name in sorted(os.environ)
        if name.startswith(ENV_PREFIX) and name not in known
    ]


def _config_files(kind: type[ProcessSettings], config: Path | None) -> list[Path]:
    if config is None:
        return []
    if config.is_file():
        return [config]
    if not config.is_dir():
        raise StartupError(f"--config {config}: there is no such file or directory")
    found = [path for stem in kind.file_stems if (path := config / f"{stem}.toml").is_file()]
    if not found:
        names = " or ".join(f"{stem}.toml" for stem in kind.file_stems)
        raise StartupError(f"--config {config}: the directory has no {names}")
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StartupError(f"{path}: cannot be read as TOML: {error}") from error

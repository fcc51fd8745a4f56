"""What is around the board: its disk, its port, the gateway, the clock."""

from __future__ import annotations

import email.utils
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil

from agents.doctor.findings import Finding, note, ok, problem, warning
from agents.http import reason_of
from agents.identity import KeptName, look_at_kept_name
from edgesched.settings import MIB, AgentSettings

GATEWAY_TIMEOUT_S = 5.0
OLDEST_TIME = 1_735_689_600.0  # 2025: a board whose clock says less has not heard of the time since it was started
CLOCK_TOLERANCE_S = 5.0


def look_at_name(settings: AgentSettings) -> Finding:
    if settings.device_id is not None:
        return ok("name", f"{settings.device_id}, as the settings say")
    workspace = settings.workspace_dir
    try:
        kept = look_at_kept_name(workspace)
    except OSError as error:
        remedy = f"sudo chown -R {os.geteuid()} {workspace}, or choose another workspace_dir"
        return problem("name", f"the one in {workspace} cannot be read: {error.strerror}", remedy)
    if kept is KeptName.NONE:
        return note("name", f"none yet: one is made at the first start, and kept in {settings.workspace_dir}")
    if kept is KeptName.DAMAGED:
        text = f"the file with it, in {workspace}, is damaged: the agent will keep it aside, and take a new name"
        return warning("name", text, "to keep the old name, set device_id to it")
    if kept is KeptName.COPIED:
        text = f"the one in {settings.workspace_dir} belongs to another machine: this disk is a copy"
        return warning("name", text, "nothing to do: at its next start the agent takes a new one")
    return ok("name", f"kept in {settings.workspace_dir}")


def look_at_disk(settings: AgentSettings) -> Finding:
    workspace = settings.workspace_dir.absolute()
    place = next(path for path in (workspace, *workspace.parents) if os.path.exists(path))
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        remedy = f"sudo chown -R {os.geteuid()} {place}, or choose another workspace_dir"
        return problem("disk", f"this user may not write to {place}, where workspace_dir lies", remedy)
    free = psutil.disk_usage(str(place)).free
    text = f"{free // MIB} MiB are free at {place}"
    if free < settings.outbox_bytes:
        remedy = "make room, or set a smaller outbox_bytes"
        return problem("disk", f"{text}; the outbox may grow to {settings.outbox_bytes // MIB} MiB", remedy)
    return ok("disk", text)


def look_at_port(settings: AgentSettings) -> Finding:
    if _is_running(settings.workspace_dir):
        return note("port", "an agent runs with this workspace now, so its port was not tried")
    host, port = settings.host, settings.agent_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            remedy = f"find who has it (sudo ss -ltnp 'sport = :{port}'), or choose another agent_port or host"
            return problem("port", f"cannot listen on {host}:{port} ({error.strerror})", remedy)
    if host.startswith("127.") and not settings.master_ip.startswith("127.") and settings.master_url is None:
        remedy = 'host = "0.0.0.0" lets the task manager in; open the port for it alone, there is no authentication yet'
        return problem("port", f"on {host} only this machine reaches the agent, but the master is elsewhere", remedy)
    return ok("port", f"{host}:{port} is free")


def _is_running(workspace: Path) -> bool:
    """Whether an agent holds the workspace. Looks only: it makes no file."""
    try:
        with (workspace / "agent.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def look_at_gateway(settings: AgentSettings) -> list[Finding]:
    """Is it there, and does its clock agree with this one?"""
    url = f"{settings.gateway_url}/health/ready"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=GATEWAY_TIMEOUT_S)) as session,
            session.get(url) as reply,
        ):
            status, date = reply.status, reply.headers.get("Date", "")
    except (aiohttp.ClientError, ValueError, OSError) as error:
        remedy = (
            "start it there (edgesched up --host 0.0.0.0), open its port 6666, or correct master_ip; an agent that is "
            "started before goes on trying"
        )
        is_slow = isinstance(error, TimeoutError)
        reason = f"no answer within {GATEWAY_TIMEOUT_S:.0f} s" if is_slow else reason_of(error)
        return [problem("gateway", f"{settings.gateway_url} cannot be reached ({reason})", remedy), *_clock("")]
    if status != 200:
        text = f"{settings.gateway_url} answers {status}: something else than a gateway of edgesched is there"
        return [problem("gateway", text, "correct master_ip and master_port"), *_clock(date)]
    return [ok("gateway", settings.gateway_url), *_clock(date)]


def _clock(date: str) -> Iterator[Finding]:
    """The cluster sends only durations; but logs are read side by side."""
    remedy = "sudo apt-get install chrony, or sudo timedatectl set-ntp true"
    now = time.time()
    if now < OLDEST_TIME:
        yield warning("clock", f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}", remedy)
        return
    then = email.utils.parsedate_to_datetime(date).timestamp() if date else None
    if then is not None and abs(now - then) > CLOCK_TOLERANCE_S:
        yield warning("clock", f"it differs from the gateway's by {abs(now - then):.0f} s", remedy)
    else:
        agreed = " and agrees with the gateway's" if then is not None else ""
        yield ok("clock", f"it says {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(now))}{agreed}")

"""Settings: layers, provenance, and one message for everything that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgesched import wire
from edgesched.errors import StartupError
from edgesched.settings import (
    PROCESSES,
    AgentSettings,
    GatewaySettings,
    SenderSettings,
    TaskManagerSettings,
    TracedSettings,
    UpSettings,
    load,
)

CONFIG_FILES = Path(__file__).parents[2] / "config_files"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in PROCESSES.values():
        for field in kind.model_fields:
            monkeypatch.delenv(f"EDGESCHED_{field.upper()}", raising=False)
        for variable in kind.common_variables.values():
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("EDGESCHED_CONFIG", raising=False)


@pytest.mark.parametrize("process", sorted(PROCESSES))
def test_every_example_file_loads(process: str) -> None:
    loaded = load(PROCESSES[process], config=CONFIG_FILES)

    assert any(origin.startswith("file") for origin in loaded.origins.values())


def test_every_example_file_belongs_to_a_process() -> None:
    stems = {stem for kind in PROCESSES.values() for stem in kind.file_stems}

    assert {path.stem for path in CONFIG_FILES.glob("*.toml")} == stems


SETTING_LINE = re.compile(r"(?P<comment># )?(?P<line>(?P<name>[a-z_]+) = .*)")


@pytest.mark.parametrize("process", sorted(set(PROCESSES) - {"up"}))
def test_every_setting_stands_in_its_example_file_and_a_commented_one_shows_its_default(
    process: str, tmp_path: Path
) -> None:
    kind = PROCESSES[process]
    (stem,) = kind.file_stems
    found = [SETTING_LINE.fullmatch(line) for line in (CONFIG_FILES / f"{stem}.toml").read_text().splitlines()]
    lines = {match["name"]: match for match in found if match}
    assert list(kind.model_fields.keys() - lines) == [], "missing"
    everything = tmp_path / "everything.toml"
    everything.write_text("\n".join(match["line"] for match in lines.values()))
    shown = load(kind, config=everything).settings
    for name, field in kind.model_fields.items():
        if lines[name]["comment"] and field.default not in (None, ()):
            assert getattr(shown, name) == field.default, name


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("http_port = 1\nbrowser_port = 1\nheartbeat_interval_ms = 1\n")
    monkeypatch.setenv("EDGESCHED_HTTP_PORT", "2")
    monkeypatch.setenv("EDGESCHED_BROWSER_PORT", "2")

    loaded = load(GatewaySettings, config=file, flags={"http_port": 3, "host": None})

    settings = loaded.settings
    assert (settings.http_port, settings.browser_port, settings.heartbeat_interval_ms) == (3, 2, 1)
    assert loaded.origins["http_port"] == "flag"
    assert loaded.origins["browser_port"] == "environment EDGESCHED_BROWSER_PORT"
    assert loaded.origins["heartbeat_interval_ms"] == f"file {file}"
    assert loaded.origins["host"] == "default"


@pytest.mark.parametrize("kind", [TaskManagerSettings, UpSettings, SenderSettings])
def test_opentelemetrys_own_variable_turns_traces_on_and_an_empty_one_does_not(
    kind: type[TracedSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(kind).settings.otlp_endpoint is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    assert load(kind).settings.otlp_endpoint is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs:4317")
    assert load(kind).settings.otlp_endpoint == "http://theirs:4317"
    monkeypatch.setenv("EDGESCHED_OTLP_ENDPOINT", "http://ours:4317")
    assert load(kind).settings.otlp_endpoint == "http://ours:4317"


def test_a_directory_gives_up_the_files_of_both_its_parts(tmp_path: Path) -> None:
    (tmp_path / "task_manager.toml").write_text("grpc_port = 1\n")
    (tmp_path / "gateway.toml").write_text("http_port = 2\n")

    settings = load(UpSettings, config=tmp_path).settings

    assert (settings.grpc_port, settings.http_port) == (1, 2)


def test_one_message_names_every_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "task_manager.toml"
    file.write_text('grpc_prt = 9\nmax_attempts = 0\ndurability = "hope"\n')
    monkeypatch.setenv("EDGESCHED_GRPC_POTR", "1")

    with pytest.raises(StartupError) as caught:
        load(TaskManagerSettings, config=file)

    message = str(caught.value)
    for part in ("'grpc_prt'", "'grpc_port'", "max_attempts", "durability", "'hope'", "EDGESCHED_GRPC_POTR"):
        assert part in message


def test_a_variable_of_another_process_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCHED_AGENT_PORT", "7")

    assert load(GatewaySettings).origins["http_port"] == "default"
    assert load(AgentSettings).settings.agent_port == 7


@pytest.mark.parametrize("content", ["not toml", "\xff"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(content.encode("latin-1"))

    with pytest.raises(StartupError, match=r"gateway\.toml"):
        load(GatewaySettings, config=file)


def test_a_missing_file_or_an_empty_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no such file"):
        load(GatewaySettings, config=tmp_path / "nowhere")
    with pytest.raises(StartupError, match=r"gateway\.toml"):
        load(GatewaySettings, config=tmp_path)


@pytest.mark.parametrize(
    "address", ["foo", "foo:", ":9999", "foo:70000", "foo:0", "foo:9999/x", "http://foo:9999", "::1:9"]
)
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(StartupError, match=r"task_manager \(flag\): .*give HOST:PORT"):
        load(GatewaySettings, flags={"task_manager": address})


@pytest.mark.parametrize("address", ["foo:9999", "10.0.0.5:1", "[fe80::1%eth0]:9999", "shelf-2.local:65535"])
def test_an_address_with_host_and_port_is_taken(address: str) -> None:
    assert load(GatewaySettings, flags={"task_manager": address}).settings.task_manager == address


@pytest.mark.parametrize("url", ["foo", "http://", "ftp://foo", "http://foo:99999", "foo:6666", "http://[::1"])
def test_a_gateway_url_that_can_never_work_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match=r"gateway_url \(flag\): .*give http://HOST:PORT"):
        load(TaskManagerSettings, flags={"gateway_url": url})


def test_no_picture_limit_is_above_what_one_message_carries() -> None:
    with pytest.raises(StartupError, match="max_picture_bytes"):
        load(TaskManagerSettings, flags={"max_picture_bytes": wire.MAX_MESSAGE_BYTES})


def test_python_path_is_split_like_a_path_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESCHED_PYTHON_PATH", "/a:/b")

    assert load(AgentSettings).settings.python_path == ("/a", "/b")


def test_variables_that_people_know_count_and_ours_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", "3")
    monkeypatch.setenv("TOTAL_CPUS", "6")

    loaded = load(AgentSettings)

    assert (loaded.settings.workers, loaded.settings.total_cpus) == (3, 6)
    assert loaded.origins["workers"] == "environment WORKER_CONCURRENCY"
    assert load(AgentSettings, flags={"workers": 1}).settings.workers == 1
    monkeypatch.setenv("EDGESCHED_WORKERS", "2")
    assert load(AgentSettings).settings.workers == 2


@pytest.mark.parametrize("number", ["0", "-1", "many", ""])
def test_fewer_than_one_worker_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setenv("WORKER_CONCURRENCY", number)

    with pytest.raises(StartupError, match="WORKER_CONCURRENCY"):
        load(AgentSettings)
    with pytest.raises(StartupError, match="workers"):
        load(AgentSettings, flags={"workers": 0})


@pytest.mark.parametrize(
    ("master_ip", "url"),
    [
        ("192.168.1.5", "http://192.168.1.5:6666"),
        ("shelf.local", "http://shelf.local:6666"),
        ("fe80::1", "http://[fe80::1]:6666"),
        ("[fe80::1]", "http://[fe80::1]:6666"),
    ],
)
def test_the_gateway_is_called_by_its_machines_name_or_address(master_ip: str, url: str) -> None:
    assert AgentSettings(master_ip=master_ip).gateway_url == url


@pytest.mark.parametrize("master_ip", ["", "http://shelf", "shelf:6666", "a b", "[", ":::"])
def test_what_is_no_machines_name_or_address_is_refused(master_ip: str) -> None:
    with pytest.raises(StartupError, match=r"master_ip \(flag\): give the name or the IP address .*, got"):
        load(AgentSettings, flags={"master_ip": master_ip})

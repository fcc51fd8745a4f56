"""Settings: layers, provenance, and one message for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesched.errors import StartupError
from edgesched.settings import PROCESSES, AgentSettings, GatewaySettings, TaskManagerSettings, UpSettings, load

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

from __future__ import annotations

from pathlib import Path

import pytest

from client.addresses import check_receiver_url, is_loopback, joined, local_address_towards
from client.identity import client_id
from edgesched.errors import StartupError


def test_a_client_keeps_its_id(tmp_path: Path) -> None:
    state_dir = tmp_path / "new" / "state"
    assert client_id(state_dir) == client_id(state_dir)
    assert client_id(tmp_path) != client_id(state_dir)


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff", b"x" * 65])
def test_a_spoilt_id_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "client_id").write_bytes(content)
    with pytest.raises(StartupError, match="client_id: holds no client id; delete it"):
        client_id(tmp_path)


def test_a_state_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="name another client_state_dir"):
        client_id(tmp_path / "file" / "below")


def test_the_way_to_this_machine_leaves_from_loopback() -> None:
    assert local_address_towards("127.0.0.1", 9999) == "127.0.0.1"
    assert local_address_towards("localhost", 9999) in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.7", False), ("box", False)]
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_ipv6_addresses_get_their_brackets() -> None:
    assert joined("::1", 9999) == "[::1]:9999"
    assert joined("box", 9999) == "box:9999"


@pytest.mark.parametrize("url", ["http://10.0.0.7:8888", "http://box", "https://box:1/path", "http://[::1]:8888/"])
def test_urls_that_can_be_posted_to_are_taken(url: str) -> None:
    assert check_receiver_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "box:8888",
        "10.0.0.7:8888",
        "ftp://box",
        "http://",
        "http://:8888",
        "http://box:x",
        "http://box:99999",
        "http://a\nb",
    ],
)
def test_urls_that_cannot_be_posted_to_are_refused(url: str) -> None:
    with pytest.raises(StartupError, match="give a URL such as"):
        check_receiver_url(url)

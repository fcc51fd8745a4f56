"""The dashboard's files: what a browser gets, what it is allowed to do with it, and that no text becomes markup."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator
from importlib import resources

import pytest

from gateway.dashboard import MEDIA, Dashboard
from tests.support.gateways import GatewayUnderTest, gateway_under_test

FILES = sorted(Dashboard().files)
SCRIPTS = [name for name in FILES if name.endswith(".js")]
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

MARKUP_FROM_TEXT = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser",
    "createContextualFragment", "srcdoc", "setHTML", "javascript:", "setTimeout(\"", "setTimeout('",
)  # fmt: skip


def text_of(name: str) -> str:
    return Dashboard().files[name].data.decode()


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        yield gateway


# -- serving


async def test_browsers_get_the_dashboard_and_programs_the_list_of_routes(gateway: GatewayUnderTest) -> None:
    async with gateway.session.get(gateway.url, headers=HTML) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert response.headers["Vary"] == "Accept"
        assert "<main>" in await response.text()
    answer = await gateway.call("GET", "/")
    assert answer.headers["Vary"] == "Accept"
    assert answer.body["routes"]


@pytest.mark.parametrize("name", FILES)
async def test_each_file_comes_with_its_type_and_a_strict_policy(gateway: GatewayUnderTest, name: str) -> None:
    async with gateway.session.get(f"{gateway.url}/dashboard/{name}") as response:
        assert response.status == 200
        assert response.content_type == MEDIA[name[name.rfind(".") :]]
        assert response.charset == "utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        policy = response.headers["Content-Security-Policy"]
        assert await response.read() == resources.files("gateway.dashboard").joinpath(name).read_bytes()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert not re.search(r"unsafe|https?:|\*", policy)


@pytest.mark.parametrize("path", ["/", "/dashboard/dashboard.js"])
async def test_a_file_that_the_browser_has_is_not_sent_again(gateway: GatewayUnderTest, path: str) -> None:
    async with gateway.session.get(gateway.url + path, headers=HTML) as first:
        etag = first.headers["ETag"]
        assert first.headers["Cache-Control"] == "no-cache"
    async with gateway.session.get(gateway.url + path, headers=HTML | {"If-None-Match": etag}) as again:
        assert (again.status, await again.read()) == (304, b"")
        assert again.headers["ETag"] == etag
    async with gateway.session.get(gateway.url + path, headers=HTML | {"If-None-Match": '"older"'}) as newer:
        assert newer.status == 200


@pytest.mark.parametrize("name", ["missing.js", "__init__.py", "..%2fapp.py", "%2e%2e%2fapp.py", ".js"])
async def test_nothing_but_the_pages_files_is_served(gateway: GatewayUnderTest, name: str) -> None:
    assert (await gateway.call("GET", f"/dashboard/{name}")).status == 404


# -- escaping, by reading the sources


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_turns_text_into_markup(name: str) -> None:
    assert [word for word in MARKUP_FROM_TEXT if word in text_of(name)] == []
    assert not re.search(r"setAttribute\(\s*[\"'](on|style|href|src)", text_of(name))


def test_the_page_has_no_inline_script_or_style() -> None:
    page = text_of("index.html")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", page)


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_another_server(name: str) -> None:
    addresses = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"']*", text_of(name))
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a name, not an address


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_import_is_a_file_that_is_served(name: str) -> None:
    for wanted in re.findall(r'from "([^"]+)"', text_of(name)):
        assert wanted.removeprefix("./") in FILES


# -- words


def keys_of(language: str) -> dict[str, str]:
    """Of the object in strings.js, without the spread states."""
    block = re.search(rf"^  {language}: \{{\n(.*?)^  \}},$", text_of("strings.js"), re.M | re.S)
    assert block is not None
    return {key: ast.literal_eval(words) for key, words in re.findall(r'(\w+): ("(?:[^"\\]|\\.)*")', block[1])}


def test_each_language_has_every_word_with_the_same_values_in_it() -> None:
    english, chinese = keys_of("en"), keys_of("zh")
    assert len(english) > 80
    assert english.keys() == chinese.keys()
    for key, words in english.items():
        assert sorted(re.findall(r"\{\w+\}", words)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key


def test_every_word_that_is_used_exists() -> None:
    scripts = "".join(text_of(name) for name in SCRIPTS)
    used = set(re.findall(r'\bt\("(\w+)"', scripts))
    used |= set(re.findall(r'data-t(?:-\w+)?="(\w+)"', text_of("index.html")))
    assert used <= keys_of("en").keys()

"""Which models there are, and what is said of those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgesched.catalogue import Catalogue, read_model
from edgesched.errors import InvalidInput

GOOD = """
labels = ["a"]
decoder = "none"
[builds.default]
backend = "echo"
"""


def write(models_dir: Path, directory: str, content: str | bytes) -> Path:
    path = models_dir / directory / "model.toml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def link_to_itself(models_dir: Path) -> None:
    (models_dir / "bad").mkdir(parents=True)
    (models_dir / "bad" / "model.toml").symlink_to("model.toml")


BAD: dict[str, Callable[[Path], object]] = {
    "bytes that are no text": lambda models: write(models, "bad", b"name = \xff"),
    "no TOML": lambda models: write(models, "bad", "name ="),
    "too deep": lambda models: write(models, "bad", "a = " + "[" * 20_000),
    "an unknown key": lambda models: write(models, "bad", 'name = "bad"\nlabls = 1' + GOOD),
    "a directory": lambda models: (models / "bad" / "model.toml").mkdir(parents=True),
    "a link that leads nowhere": lambda models: link_to_itself(models),
    "labels in no file": lambda models: write(models, "bad", 'name = "bad"\n' + GOOD.replace('["a"]', '"a\\u0000b"')),
    "labels that are no text": lambda models: write(
        models, "bad", 'name = "bad"\n' + GOOD.replace('["a"]', '"model.bin"')
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_model_that_cannot_be_read_is_named_and_costs_no_other(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "good", 'name = "good"' + GOOD)
    BAD[kind](tmp_path)
    (tmp_path / "bad" / "model.bin").write_bytes(b"\xff\xfe")
    catalogue, problems = Catalogue.readable(tmp_path)
    assert "good" in set(catalogue)
    assert set(problems) == {"bad"}
    assert str(tmp_path / "bad" / "model.toml") in problems["bad"]
    with pytest.raises(InvalidInput, match="bad"):
        Catalogue.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('name = "bad"\nlabls = 1' + GOOD, "labls: unknown key; did you mean 'labels'?"),
        (
            'name = "bad"' + GOOD + "inputwidth = 3",
            "builds.default.inputwidth: unknown key; did you mean 'input_width'?",
        ),
        ('name = "bad"' + GOOD + 'file = "../a"', "builds.default.file: must lie inside the model's directory"),
    ],
)
def test_what_is_wrong_with_a_key_is_said_in_our_own_words(tmp_path: Path, content: str, told: str) -> None:
    write(tmp_path, "bad", content)
    assert Catalogue.readable(tmp_path)[1]["bad"] == f"{tmp_path / 'bad' / 'model.toml'}: {told}"


def test_two_directories_with_one_name_leave_that_model_out(tmp_path: Path) -> None:
    for directory in ("one", "two"):
        write(tmp_path, directory, 'name = "same"' + GOOD)
    write(tmp_path, "good", 'name = "good"' + GOOD)
    catalogue, problems = Catalogue.readable(tmp_path)
    assert "same" not in set(catalogue)
    assert "good" in set(catalogue)
    assert "rename one" in problems["same"]


def test_a_broken_model_that_was_to_hide_a_built_in_one_does_not_let_it_work_in_silence(tmp_path: Path) -> None:
    assert "shapes" in set(Catalogue.read(tmp_path))
    write(tmp_path, "shapes", "garbage")
    catalogue, problems = Catalogue.readable(tmp_path)
    assert "shapes" not in set(catalogue)
    assert list(problems) == ["shapes"]


def test_what_is_no_model_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("models of ours")
    assert Catalogue.readable(tmp_path)[1] == {}
    assert Catalogue.readable(tmp_path / "README.md")[1] == {}
    assert Catalogue.readable(tmp_path / "nowhere")[1] == {}


def test_what_is_missing_is_named_without_the_words_of_a_library(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none/model\.toml: cannot be read: No such file or directory$"):
        read_model(tmp_path / "none")
    directory = write(tmp_path, "bad", 'labels = "labels.txt"').parent
    with pytest.raises(InvalidInput, match=r"bad/labels\.txt: cannot be read: No such file or directory$"):
        read_model(directory)
    (directory / "labels.txt").touch()
    with pytest.raises(InvalidInput, match=r"bad/model\.toml: .*decoder: is missing; builds: is missing"):
        read_model(directory)

"""`noa new` before anything is built: names, folders, SDKs, and files that are in order whatever the name."""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.templates.packages import EVERY, ROOT, UV, call

from noa.cli import sdks
from noa.cli.app import app
from noa.cli.scaffold import LONGEST, PackageName
from noa.errors import InternalError, UsageError

TEMPLATES = ROOT / "core" / "noa" / "cli" / "templates"
OF_EVERY = pytest.mark.parametrize("template", EVERY)


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """`noa new` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def new_(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["new", *arguments])

    return new_


def arguments_of(template: str, name: str) -> list[str]:
    command, _, *options = EVERY[template]
    return [command, name, *options]


# --- names


@pytest.mark.parametrize(
    ("text", "module", "type_name"),
    [("a", "a", "A"), ("word-counter", "word_counter", "WordCounter"), ("ocr2-v3", "ocr2_v3", "Ocr2V3")],
)
def test_a_name_is_the_module_and_the_class_too(text: str, module: str, type_name: str) -> None:
    name = PackageName.parse(text)
    assert (name.text, name.module, name.type_name) == (text, module, type_name)


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("WordCounter", "word-counter"),
        ("word_counter", "word-counter"),
        ("word--counter", "word-counter"),
        ("-word", "word"),
        ("word-", "word"),
        ("3d", "d"),
        ("größe", "gr-e"),
        ("../up", "up"),
        ("a b", "a-b"),
        ("x" * (LONGEST + 1), "x" * LONGEST),
    ],
)
def test_a_name_that_is_none_says_what_one_is_and_which_is_near(text: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"Did you mean '{suggestion}'?")) as error:
        PackageName.parse(text)
    assert "lower-case letters, digits and single dashes" in error.value.message


@pytest.mark.parametrize("text", ["", "-", "123"])
def test_a_name_without_a_letter_gets_no_suggestion(text: str) -> None:
    with pytest.raises(UsageError) as error:
        PackageName.parse(text)
    assert "Did you mean" not in error.value.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("lambda", "a keyword of Python"),
        ("loop", "a keyword of Rust"),
        ("chan", "a keyword of Go"),
        ("json", "a module of Python's standard library"),
        ("noa", "a library that the package uses"),
        ("target", "the name of a folder of the package"),
        ("core", "a crate or a package that comes with Rust or Go"),
    ],
)
def test_a_name_that_a_language_takes_otherwise_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"it is {reason}. Did you mean 'my-{text}'?")):
        PackageName.parse(text)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["agent", "worker"], "an agent named 'worker' is there already"),
        (["plugin", "worker"], "an agent named 'worker' is there already"),
        (["plugin", "worker", "--kind", "alert"], "an agent named 'worker' is there already"),
        (["plugin", "sequential", "--kind", "stage"], "a stage type named 'sequential' is there already"),
        (["plugin", "retry", "--kind", "recovery"], "a recovery strategy named 'retry' is there already"),
        (["plugin", "standard-agents"], "a plugin named 'standard-agents' is installed already"),
    ],
)
def test_a_name_that_a_plugin_has_is_refused_before_anything_is_written(
    new: object, tmp_path: Path, arguments: list[str], what: str
) -> None:
    done = new(*arguments)
    assert done.exit_code == 2
    assert what in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- folders


def test_a_folder_that_holds_something_is_left_alone(new: object, tmp_path: Path) -> None:
    (tmp_path / "word-counter").mkdir()
    (tmp_path / "word-counter" / "notes.txt").write_text("mine")
    done = new("agent", "word-counter")
    assert done.exit_code == 2
    assert "folder word-counter is not empty (it holds notes.txt); nothing was written" in done.stderr
    assert [entry.name for entry in (tmp_path / "word-counter").iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled_and_a_deeper_one_is_made(new: object, tmp_path: Path) -> None:
    (tmp_path / "word-counter").mkdir()
    assert new("plugin", "word-counter").exit_code == 0
    assert (tmp_path / "word-counter" / "workflow.yaml").is_file()
    done = new("plugin", "word-counter", "--into", "a b/c")
    assert (tmp_path / "a b" / "c" / "workflow.yaml").is_file()
    assert "cd 'a b/c' && pip install" in done.stdout


def test_this_folder_needs_no_cd(new: object, tmp_path: Path) -> None:
    done = new("plugin", "word-counter", "--into", ".")
    assert (tmp_path / "pyproject.toml").is_file()
    assert "Next:\n  pip install '.[test]'\n" in done.stdout


def test_a_file_in_the_way_is_left_alone(new: object, tmp_path: Path) -> None:
    (tmp_path / "word-counter").write_text("mine")
    done = new("agent", "word-counter")
    assert done.exit_code == 2
    assert "word-counter is a file" in done.stderr
    assert (tmp_path / "word-counter").read_text() == "mine"


def test_a_folder_below_a_file_says_what_cannot_be_written(new: object, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    done = new("agent", "word-counter", "--into", "taken/below")
    assert done.exit_code == 2
    assert "cannot be written: Not a directory" in done.stderr


# --- SDKs


@pytest.mark.parametrize(
    ("lang", "given"),
    [("rust", "."), ("rust", "agents/rust"), ("rust", "agents/rust/noa-agent"), ("go", "."), ("go", "agents/go")],
)
def test_an_sdk_is_found_in_its_folder_and_in_a_checkout(lang: str, given: str) -> None:
    values, locks = sdks.sdk_values(lang, ROOT / given)
    folder = str(ROOT / ("agents/rust/noa-agent" if lang == "rust" else "agents/go"))
    assert folder in (values["sdk"] if lang == "rust" else values["go_requirements"])
    assert list(locks) == ["Cargo.lock" if lang == "rust" else "go.sum"]


@pytest.mark.parametrize(("lang", "what"), [("rust", "crate noa-agent"), ("go", f"module {sdks.GO_MODULE}")])
def test_a_folder_without_the_sdk_says_where_it_was_looked_for(
    new: object, tmp_path: Path, lang: str, what: str
) -> None:
    done = new("agent", "word-counter", "--lang", lang, "--sdk", "elsewhere")
    assert done.exit_code == 2
    assert f"--sdk elsewhere: the {what} is not there (looked at elsewhere/" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_python_needs_no_sdk(new: object) -> None:
    done = new("agent", "word-counter", "--sdk", str(ROOT))
    assert done.exit_code == 2
    assert "--sdk is for --lang rust and go" in done.stderr


@pytest.mark.parametrize(
    ("lang", "file", "line"),
    [("rust", "Cargo.toml", 'noa-agent = "{version}"'), ("go", "go.mod", f"require {sdks.GO_MODULE} v{{version}}")],
)
def test_without_a_checkout_the_published_version_is_named_and_the_readme_says_so(
    new: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lang: str, file: str, line: str
) -> None:
    monkeypatch.setattr(sdks, "CHECKOUT", tmp_path)
    done = new("agent", "word-counter", "--lang", lang)
    version = sdks.sdk_values("python", None)[0]["noa_version"]
    package = tmp_path / "word-counter"
    assert line.format(version=version) in (package / file).read_text().splitlines()
    assert not (package / "Cargo.lock").exists()
    assert not (package / "go.sum").exists()
    assert f"is taken in its version {version}" in (package / "README.md").read_text()
    assert ("go mod tidy && pip install ." in done.stdout) == (lang == "go")


# --- files


@OF_EVERY
@pytest.mark.parametrize("name", ["q", "y" * LONGEST])
def test_files_are_in_order_whatever_the_length_of_the_name(
    new: object, tmp_path: Path, template: str, name: str
) -> None:
    done = new(*arguments_of(template, name), "--into", "package")
    assert done.exit_code == 0, done.output
    package = tmp_path / "package"
    call(["ruff", "check", "."], package)
    call(["ruff", "format", "--check", "."], package)
    if template == "agent-rust":
        call(["rustfmt", "--check", "--edition", "2024", "src/main.rs"], package)
    if template == "agent-go":
        assert call(["gofmt", "-l", "."], package) == ""


def test_a_placeholder_without_a_value_is_a_fault_of_noa() -> None:
    from noa.cli.scaffold import render

    with pytest.raises(InternalError, match="has the placeholder '@module@', which has no value"):
        render(["count-words-python"], {"name": "a", "type": "A"})


@pytest.mark.parametrize("words", [[], ["agent"], ["plugin"]])
def test_help_shows_examples(new: object, words: list[str]) -> None:
    done = new(*words, "--help")
    assert done.exit_code == 0
    assert "noa new " in done.stdout.split("Examples:")[1]


def test_the_wheel_of_noa_has_every_template(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source / name)
    (source / "core").symlink_to(ROOT / "core")
    build = ("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(tmp_path))
    call([*UV, *build, str(source)], tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    templates = [path for path in TEMPLATES.rglob("*") if path.is_file()]
    assert len(templates) > 30
    assert [
        path for path in templates if f"noa/cli/templates/{path.relative_to(TEMPLATES).as_posix()}" not in names
    ] == []

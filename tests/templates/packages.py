"""Packages as `noa new` writes them, built and installed as their authors would, without asking any registry."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "word-counter"
MODULE = "word_counter"
NOA = (sys.executable, "-c", "import sys; from noa.cli import main; main(sys.argv[1:])")
PROGRAMS = {"noa": "from noa.cli import main", "pytest": "from pytest import main"}
UV = (sys.executable, "-m", "uv")

SIDECARS = {f"agent-{lang}": ("agent", NAME, "--lang", lang) for lang in ("python", "rust", "go")}
PLUGINS = {f"plugin-{kind}": ("plugin", NAME, "--kind", kind) for kind in ("agent", "stage", "recovery", "alert")}
EVERY = SIDECARS | PLUGINS
"""Name of a template -> arguments of `noa new`."""

# What the builds of the project's own agents left is used again: their folder and their profile.
_OFFLINE = {
    "CARGO_NET_OFFLINE": "true",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_PROFILE_RELEASE_LTO": "false",
    "GOPROXY": "off",
    "GOTOOLCHAIN": "local",
    "UV_OFFLINE": "1",
}


@dataclass(frozen=True, slots=True)
class Package:
    """A package that was rendered, built and installed into an environment of its own.

    Attributes:
        folder: Of its sources.
        wheel: What was built.
        environment: Python environment in which it is installed, beside all that this Python has.
        printed: By `noa new`.
    """

    folder: Path
    wheel: Path
    environment: Path
    printed: str

    def call(self, *command: str) -> str:
        """What a program of the environment prints in the package's folder."""
        return call(command, self.folder, self.environment)

    @property
    def readme(self) -> list[str]:
        """The commands that its README shows, without their comments."""
        text = (self.folder / "README.md").read_text(encoding="utf-8")
        block = text.partition("```sh\n")[2].partition("```")[0]
        return [line.partition("  #")[0].strip() for line in block.splitlines()]


def make_package(arguments: Sequence[str], place: Path) -> Package:
    """Render by `noa new`, build the wheel, install it."""
    printed = call([*NOA, "new", *arguments], place)
    folder, dist = place / NAME, place / "dist"
    environment = new_environment(place / "environment")
    python = ("--python", str(environment / "bin" / "python"))
    build = [*UV, "build", "--wheel", "--no-build-isolation", *python, "--out-dir", str(dist), str(folder)]
    call(build, place, environment)
    [wheel] = dist.glob("*.whl")
    call([*UV, "pip", "install", "--no-deps", "--no-index", *python, str(wheel)], place, environment)
    return Package(folder, wheel, environment, printed)


def call(command: Sequence[str], folder: Path, environment: Path | None = None) -> str:
    """Run a program without input and give what it printed; the test fails where it does not exit with 0."""
    prefixes = [environment, Path(sys.prefix)] if environment else [Path(sys.prefix)]
    path = os.pathsep.join([*(str(prefix / "bin") for prefix in prefixes), os.environ["PATH"]])
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "agents" / "rust" / "target"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NOA_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=inherited | _OFFLINE | {"PATH": path, "CARGO_TARGET_DIR": target, "NO_COLOR": "1", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout


def new_environment(folder: Path) -> Path:
    """A Python environment that sees the packages of this one, editable ones too, with programs that see its own."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    line = f"import site; site.addsitedir({str(Path(sys.prefix) / packages)!r})\n"
    (folder / packages / "beside.pth").write_text(line, encoding="utf-8")
    for name, imported in PROGRAMS.items():
        program = folder / "bin" / name
        program.write_text(f"#!{folder}/bin/python\nimport sys\n{imported}\nsys.exit(main())\n", encoding="utf-8")
        program.chmod(0o755)
    return folder

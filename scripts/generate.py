"""Makes anew what is generated: Python and Go from the protos, and docs/cli.md from the commands.

    python scripts/generate.py            write it
    python scripts/generate.py --check    write it elsewhere, and exit with 1 where what is committed differs
                                          (docs/cli.md is checked by tests/meta)

Rust is generated in its build. Both plugins and protoc are pinned: the same protos give the same bytes.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = Path("noa/agent/v1")
PYTHON_CODE = Path("core") / PROTOS
GO_CODE = Path("agents/go/noaagent/agentpb")


def generate_python(target: Path) -> None:
    """Write messages, their types and the service's stubs below `target`/noa/agent/v1."""
    protos = sorted(path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos" / PROTOS).glob("*.proto"))
    with_service = [name for name in protos if "\nservice " in (ROOT / "protos" / name).read_text(encoding="utf-8")]
    _protoc(protos, f"--python_out={target}", f"--mypy_out=quiet:{target}")
    _protoc(with_service, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}")


def generate_go(tree: Path) -> None:
    """Run the Go module's own script in `tree`, a folder that has agents/go and protos."""
    subprocess.run(["./generate.sh"], cwd=tree / "agents/go", env=os.environ | {"PYTHON": sys.executable}, check=True)


def generate_cli_docs() -> None:
    """Write docs/cli.md."""
    subprocess.run([sys.executable, ROOT / "scripts/generate_cli_docs.py"], cwd=ROOT, check=True)


def check() -> list[str]:
    """Names of the committed files that are not what the protos give."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        (fresh / "core").mkdir()
        generate_python(fresh / "core")
        shutil.copytree(ROOT / "protos", fresh / "protos")
        shutil.copytree(ROOT / "agents/go", fresh / "agents/go")
        generate_go(fresh)
        return [
            *_differences(fresh, PYTHON_CODE, ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")),
            *_differences(fresh, GO_CODE, ("*.pb.go",)),
        ]


def _protoc(protos: list[str], *outputs: str) -> None:
    # The plugins of mypy-protobuf stand beside this Python.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "protos"), *outputs, *protos]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path}, check=True)


def _differences(fresh: Path, folder: Path, patterns: tuple[str, ...]) -> list[str]:
    names = {path.name for root in (fresh, ROOT) for pattern in patterns for path in (root / folder).glob(pattern)}
    return [(folder / name).as_posix() for name in sorted(names) if not _same(fresh / folder / name, folder / name)]


def _same(made: Path, committed: Path) -> bool:
    there = ROOT / committed
    return made.is_file() and there.is_file() and filecmp.cmp(made, there, shallow=False)


def main(arguments: list[str]) -> int:
    """The exit status."""
    if arguments not in ([], ["--check"]):
        print("usage: generate.py [--check]", file=sys.stderr)
        return 2
    if arguments:
        different = check()
        for name in different:
            print(f"{name} is not what the protos give; run `make generate` and commit it")
        if not different:
            print("generated code is what the protos give")
        return int(bool(different))
    generate_python(ROOT / "core")
    generate_go(ROOT)
    generate_cli_docs()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

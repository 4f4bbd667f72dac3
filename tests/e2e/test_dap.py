"""The debug adapter over real processes: driven by the client that other adapters are tested with, and by garbage."""

import asyncio
import fcntl
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import NOA, Noa, kill

from noa.cli.dap import _open_runs
from noa.modes.dap import Session

HERE = Path(__file__).parent / "dap"

SCENARIOS = [
    "initialized comes after the answer to initialize",
    "breakpoints on lines stop there, with their conditions",
    "steps go from task to task, and out of a stage",
    "variables are shown nested, changed, and evaluated",
    "failures stop, are explained, and mended from the console",
    "steps back show the run as it was, and change nothing",
    "a run that is over is looked at from its beginning",
    "a run of another process is stopped, paused and given back",
    "what is wrong is said in the answer",
]

SLOW = """
workflow:
  name: slowly
  inputs: {folder: {type: string}}
  stages:
    - name: work
      type: sequential
      tasks:
        - {agent: shop, action: slow}
        - {name: after, agent: shop, action: note, inputs: {text: later}}
        - {name: last, agent: shop, action: note, inputs: {text: last}}
"""


@pytest.fixture(scope="session")
def client() -> Path:
    """The client of the protocol, installed once as the lock file says."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are needed for the client; the adapter's own tests run without")
    wanted = (HERE / "package-lock.json").read_text()
    with (HERE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest
        stamp = HERE / "node_modules" / ".installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            done = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"],
                cwd=HERE, capture_output=True, text=True, timeout=110, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
            stamp.write_text(wanted)
    return HERE / "scenarios.js"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("order.yaml", "shop.py"):
        shutil.copy(HERE / name, tmp_path / name)
    (tmp_path / "slow.yaml").write_text(SLOW)
    return tmp_path


def play(client: Path, name: str, folder: Path, argument: str = "") -> None:
    done = subprocess.run(
        ["node", str(client), name, NOA, str(folder), argument],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr


def test_every_scenario_of_the_client_is_played(client: Path) -> None:
    done = subprocess.run(
        ["node", str(client), "names", NOA, "."], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == SCENARIOS


@pytest.mark.parametrize("name", [name for name in SCENARIOS if not name.startswith("a run")])
def test_client(client: Path, folder: Path, name: str) -> None:
    play(client, name, folder)


def test_client_looks_at_a_run_that_is_over(client: Path, folder: Path, noa: Noa) -> None:
    noa.home = folder / "home"
    assert noa("run", folder / "order.yaml", "--plugin", folder / "shop.py", "-i", "item=tea").returncode == 0
    run = noa.json("runs")[0]["run_id"]
    before = len(noa.events())
    play(client, "a run that is over is looked at from its beginning", folder, run)
    assert len(noa.events()) == before, "looking changes nothing"


def test_client_stops_a_run_of_another_process(client: Path, folder: Path, noa: Noa) -> None:
    noa.home = folder / "home"
    process = noa.start("run", folder / "slow.yaml", "--plugin", folder / "shop.py", "-i", f"folder={folder}")
    try:
        noa.wait_for_events(1, "task_scheduled")
        play(client, "a run of another process is stopped, paused and given back", folder, "latest")
        assert process.wait(60) == 0, "the editor gave it back"
    finally:
        if process.poll() is None:
            kill(process)
        process.communicate()
    done = [event["task"] for event in noa.events("attempt_succeeded")]
    assert done == ["work/slow", "work/after", "work/last"]


# --- what is no protocol ----------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [NOA, "dap"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def framed(body: bytes | dict[str, Any]) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"Content-Length: %d\r\n\r\n%b" % (len(data), data)


def ask(seq: int, command: str, **arguments: Any) -> bytes:
    return framed({"seq": seq, "type": "request", "command": command, "arguments": arguments})


def messages(data: bytes) -> list[dict[str, Any]]:
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"Content-Length: "), head
        size = int(head.partition(b": ")[2])
        found.append(json.loads(data[:size]))
        data = data[size:]
    return found


def converse(adapter: subprocess.Popen[bytes], data: bytes) -> list[dict[str, Any]]:
    """Send bytes, end the input; everything that came back."""
    out, err = adapter.communicate(data, timeout=60)
    assert b"Traceback" not in err, err.decode()
    assert adapter.returncode == 0
    return messages(out)


def test_garbage_in_frames_is_answered_and_the_session_goes_on(adapter: subprocess.Popen[bytes]) -> None:
    wrong = [b"{", b"[1]", b"7", b"\xff\xfe", b"{}", b'{"type": "request", "seq": "1", "command": "x"}', b"[" * 200_000,
             b'{"type": "request", "seq": 3, "command": "next", "arguments": 5}', b""]  # fmt: skip
    found = converse(adapter, b"".join(map(framed, wrong)) + framed({"type": "response"}) + ask(9, "initialize"))
    *errors, answer, event = found
    assert len(errors) == len(wrong)
    assert not any(error["success"] for error in errors)
    assert all(error["message"] for error in errors)
    assert errors[7]["request_seq"] == 3
    assert (answer["command"], answer["success"], answer["request_seq"]) == ("initialize", True, 9)
    assert event["event"] == "initialized"
    assert [message["seq"] for message in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"Content-Length: 99999999999999\r\n\r\n{", "at most"),
        (b"Content-Length: -5\r\n\r\n", "number of bytes"),
        (b"Content-Length: 9e9\r\n\r\n", "number of bytes"),
        (b"Content-Type: x\r\n\r\n", "without Content-Length"),
        (b"hello there\n", "expected 'Content-Length"),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", "expected 'Content-Length"),
        (b"Content-Length: 2\r\nOrigin: http://example.org\r\n\r\n{}", "'Origin"),
        (b"Content-Length:" + b" " * 10_000, "expected 'Content-Length"),
    ],
)
def test_stream_that_cannot_be_read_ends_with_an_answer(
    adapter: subprocess.Popen[bytes], data: bytes, why: str
) -> None:
    assert adapter.stdin is not None
    adapter.stdin.write(data)
    adapter.stdin.flush()
    assert adapter.wait(60) == 0, "it ends by itself, though its input is open"
    (error,) = converse(adapter, b"")
    assert (error["success"], why in error["message"]) == (False, True), error


def test_breakpoints_may_come_before_the_launch(adapter: subprocess.Popen[bytes], folder: Path) -> None:
    def at(seq: int, name: str, line: int) -> bytes:
        return ask(seq, "setBreakpoints", source={"path": str(folder / name)}, breakpoints=[{"line": line}])

    launch = {"program": str(folder / "order.yaml"), "plugins": ["shop.py"], "home": "home"}
    found = converse(adapter, at(1, "order.yaml", 15) + at(2, "slow.yaml", 9) + ask(3, "launch", **launch))
    assert [m["body"]["breakpoints"][0]["verified"] for m in found[:2]] == [False, False]
    changed = [m["body"]["breakpoint"] for m in found if m.get("event") == "breakpoint"]
    assert [(point["id"], point["verified"], point["line"]) for point in changed] == [(1, True, 14), (2, False, 9)]
    assert "not the definition" in changed[1]["message"]


def test_half_a_message_at_the_end_is_no_fault(adapter: subprocess.Popen[bytes]) -> None:
    found = converse(adapter, ask(1, "initialize") + ask(2, "threads")[:-7])
    assert [message.get("command") for message in found] == ["initialize", None]


def test_pieces_of_a_message_are_put_together(adapter: subprocess.Popen[bytes]) -> None:
    assert adapter.stdin is not None
    for byte in ask(1, "initialize"):
        adapter.stdin.write(bytes([byte]))
        adapter.stdin.flush()
    assert converse(adapter, ask(2, "threads"))[-1]["body"]["threads"]


def test_editor_that_goes_away_leaves_a_run_stopped_that_goes_on_later(
    adapter: subprocess.Popen[bytes], folder: Path, noa: Noa
) -> None:
    noa.home = folder / "home"
    assert adapter.stdin is not None
    launch = {"program": "order.yaml", "plugins": ["shop.py"], "home": "home", "inputs": {"item": "tea"}}
    adapter.stdin.write(ask(1, "launch", stopOnEntry=True, **launch) + ask(2, "configurationDone"))
    adapter.stdin.flush()
    noa.wait_for_events(1, "task_held")
    converse(adapter, b"")
    run = noa.json("runs")[0]["run_id"]
    assert noa("mode", run, "auto").returncode == 0
    assert noa("resume", run, "--plugin", folder / "shop.py").returncode == 0
    assert len(noa.events("attempt_succeeded")) == 4


def test_port_serves_several_editors_one_after_another_and_at_once(folder: Path) -> None:
    process = subprocess.Popen([NOA, "dap", "--port", "0"], cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().rpartition(":")[2])
        first, second = (socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(2))
        with first, second:
            for one in (second, first):
                one.sendall(ask(1, "initialize") + ask(2, "disconnect"))
                data = b""
                while part := one.recv(65536):
                    data += part
                assert [m.get("command") for m in messages(data)] == ["initialize", None, "disconnect"]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as web:
            web.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"expected 'Content-Length" in web.recv(65536)
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=60)


JUNK: list[Any] = [None, True, -1, 10**30, "x", [], [1], {}, {"path": 5}]


async def test_arguments_that_mean_nothing_are_refused_in_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    sent: list[dict[str, Any]] = []
    session = Session(sent.append, _open_runs())
    seq = 0

    async def say(command: str, **arguments: Any) -> dict[str, Any]:
        nonlocal seq
        seq += 1
        await session.handle({"seq": seq, "type": "request", "command": command, "arguments": arguments})
        return next(m for m in sent if m["type"] == "response" and m["request_seq"] == seq)

    async def stopped() -> None:
        while not any(m.get("event") == "stopped" for m in sent):
            await asyncio.sleep(0.01)

    names = ["program", "run", "inputs", "home", "plugins", "source", "breakpoints", "filters", "filterOptions", "line",
             "endLine", "threadId", "frameId", "startFrame", "levels", "variablesReference", "start", "count", "name",
             "value", "expression", "context", "sourceReference"]  # fmt: skip
    kept = ["initialize", "setBreakpoints", "setFunctionBreakpoints", "setExceptionBreakpoints", "breakpointLocations",
            "threads", "stackTrace", "scopes", "variables", "setVariable", "evaluate", "exceptionInfo", "source",
            "pause"]  # fmt: skip
    try:
        for command in [*kept, "launch", "attach", "configurationDone", "next", "stepBack"]:
            for junk in JUNK:
                answer = await say(command, **dict.fromkeys(names, junk))
                assert "fault" not in answer.get("message", ""), (command, junk, answer)
        assert not (await say("launch", program="nope.yaml", home="elsewhere"))["success"]
        assert not (await say("attach", run="latest", home="nowhere"))["success"]
        assert not (await say("attach", run="latest", home="elsewhere"))["success"]
        launch = {"program": str(folder / "order.yaml"), "plugins": [str(folder / "shop.py")]}
        assert (await say("launch", **launch, home=str(folder / "home"), stopOnEntry=True))["success"]
        assert (await say("configurationDone"))["success"]
        await asyncio.wait_for(stopped(), 60)
        thread = next(m for m in sent if m.get("event") == "stopped")["body"]["threadId"]
        frames = (await say("stackTrace", threadId=thread))["body"]["stackFrames"]
        scopes = (await say("scopes", frameId=frames[0]["id"]))["body"]["scopes"]
        right = {"threadId": thread, "frameId": frames[0]["id"], "variablesReference": scopes[0]["variablesReference"]}
        for command in kept:
            for junk in JUNK:
                for given in (dict.fromkeys(names, junk), dict.fromkeys(names, junk) | right):
                    answer = await say(command, **given)
                    assert "fault" not in answer.get("message", ""), (command, junk, answer)
        assert (await say("evaluate", expression="task.path", frameId=frames[0]["id"]))["body"][
            "result"
        ] == '"buy/price"'
        assert (await say("disconnect"))["success"]
    finally:
        await session.close()

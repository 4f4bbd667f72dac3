"""The terminal debugger as a process: driven by lines of stdin, and at a terminal by a person's keys."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.e2e.conftest import NOA, Noa, kill

SHOP = Path(__file__).parent / "dap"

SLOW = """
workflow:
  name: slowly
  inputs: {folder: {type: string}}
  stages:
    - name: work
      type: sequential
      tasks:
        - {agent: shop, action: slow, inputs: {folder: "${{ inputs.folder }}"}}
        - {name: after, agent: shop, action: note, inputs: {text: later}, approval: {prompt: "really?"}}
        - {name: last, agent: shop, action: note, inputs: {text: last}}
"""

PARENT = """
workflow:
  name: parent
  stages:
    - name: main
      type: sequential
      tasks:
        - {name: child, workflow: ./order.yaml, inputs: {item: tea}}
        - {name: after, agent: shop, action: note, inputs: {text: done}}
"""

EACH = """
workflow:
  name: each
  stages:
    - name: every
      type: loop
      for_each: [1, 2, 3]
      max_parallel: 1
      tasks:
        - {name: say, agent: shop, action: note, inputs: {text: "n ${{ item }}"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("order.yaml", "shop.py"):
        shutil.copy(SHOP / name, tmp_path / name)
    for name, text in (("slow.yaml", SLOW), ("parent.yaml", PARENT), ("each.yaml", EACH)):
        (tmp_path / name).write_text(text)
    return tmp_path


@dataclass
class Said:
    """What a session printed, and how it ended."""

    text: str
    code: int

    def after(self, command: str, count: int = 1) -> str:
        """What came after a command, up to the next one."""
        parts = re.split(r"^\(noa[^)]*\) (.*)$", self.text, flags=re.MULTILINE)
        found = [answer for typed, answer in zip(parts[1::2], parts[2::2], strict=True) if typed == command]
        assert len(found) >= count, f"'{command}' was not said:\n{self.text}"
        return found[count - 1].strip()


def debug(folder: Path, lines: str, *args: object) -> Said:
    """Run a session whose commands are these lines."""
    done = subprocess.run(
        [NOA, "debug", *map(str, args), "--plugin", "shop.py"],
        cwd=folder,
        env={**os.environ, "NOA_HOME": "home", "NO_COLOR": "1"},
        input="\n".join(line.strip() for line in lines.strip("\n").splitlines()) + "\n",
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Said(done.stdout + done.stderr, done.returncode)


def test_session_steps_looks_mends_and_goes_back(folder: Path, noa: Noa) -> None:
    said = debug(
        folder,
        """
        list 15
        break on failure
        b tell.mail if task.inputs.text.contains('9')
        b 14
        break tell.male
        tbreak book if nope
        info breakpoints
        print 1 + 1
        run
        bt
        inputs
        print task.inputs.cents * 2
        print stages.buy.price.outputs.tags[1]["in"]
        print stage
        outputs buy.price
        list
        c
        set inputs.cents = 500 + 400
        retry
        also
        where
        back 2
        set inputs.cents = 1
        step
        now
        task tell.book
        step
        override {"text": "by hand"}
        log
        goto 1
        continue
        continue
        rewind
        events 3
        why
        quit
        """,
        "order.yaml",
    )
    assert "order (order.yaml): 2 stages, 4 tasks" in said.text
    assert "14          - agent: shop" in said.after("list 15")
    assert said.after("break on failure") == "breakpoint 1 after a failed attempt of any task"
    assert "Did you mean 'tell/mail'?" in said.after("break tell.male")
    assert "undeclared reference to 'nope'" in said.after("tbreak book if nope")
    assert re.search(r"2 +tell/mail \(line 22\) +before it begins +task\.inputs", said.after("info breakpoints"))
    assert "the run has not begun" in said.after("print 1 + 1")
    stopped = said.after("run")
    assert "buy/price info: looking up kettle" in stopped
    assert "✓ buy/price succeeded" in stopped
    assert "stopped before buy/pay (order.yaml:14): breakpoint 3" in stopped
    stack = said.after("bt").splitlines()
    assert [line.split()[1] for line in stack[:3]] == ["buy/pay", "stage", "run"]
    assert "held: breakpoint 3; shop.pay" in stack[0]
    assert said.after("inputs") == "cents  1500"
    assert said.after("print task.inputs.cents * 2") == "3000"
    assert said.after('print stages.buy.price.outputs.tags[1]["in"]') == '"stock"'
    assert "Did you mean 'stages'?" in said.after("print stage")
    assert '{"in": "stock"}' in said.after("outputs buy.price")
    assert "→● 14          - agent: shop" in said.after("list")
    assert "TOO_MUCH: 1500 is over the limit" in said.after("c")
    assert "it failed, breakpoint 1" in said.after("c")
    assert said.after("set inputs.cents = 500 + 400") == "inputs.cents = 900"
    assert "stopped before tell/mail (order.yaml:22): breakpoint 2" in said.after("retry")
    assert "also held: tell/book" in said.after("retry")
    assert "command 'also' is not known" in said.after("also")
    assert re.search(r"@\d+ of \d+, read only: ", said.after("back 2"))
    assert "go back to now" in said.after("set inputs.cents = 1")
    assert re.search(r"^@\d+ ", said.after("step"))
    assert "stopped before tell/mail" in said.after("now")
    assert "#0  tell/book" in said.after("task tell.book")
    assert "✓ tell/book succeeded" in said.after("step", 2)
    assert "is over: succeeded" in said.after('override {"text": "by hand"}')
    assert said.after("log").startswith("buy/price info: looking up kettle")
    assert said.after("goto 1").startswith("@1 of ")
    assert "buy/pay begins (attempt 1) (breakpoint 3)" in said.after("continue")
    assert "buy/pay: attempt 1 failed" in said.after("continue", 2)
    assert "(breakpoint 3)" in said.after("rewind")
    assert len(said.after("events 3").splitlines()) == 3
    assert said.code == 0
    noa.home = folder / "home"
    (by_hand,) = [e["body"]["outputs"] for e in noa.events("signal_applied") if e["kind"] == "override"]
    assert by_hand == {"text": "by hand"}


def test_empty_line_steps_again_and_short_names_do(folder: Path) -> None:
    said = debug(folder, "s\n\n\n\nw\nn\ninf\nin\nkill changed my mind\nq", "order.yaml", "-i", "item=tea")
    places = re.findall(r"stopped before (\S+)", said.text)
    assert places == ["buy/price", "buy/pay", "tell/mail", "tell/book"]
    assert "#0  tell/book" in said.after("w")
    assert "may be" in said.after("in")
    assert "is over: succeeded" in said.after("n")
    assert "can only be looked at" in said.after("kill changed my mind")


def test_help_teaches_every_command(folder: Path) -> None:
    names = (
        "run step next continue until into out break tbreak clear pause unpause where list print inputs outputs info"
    )
    names += " task events log why set retry skip override approve reject mode back forward goto rewind now quit detach"
    names += " kill help"
    said = debug(folder, "help\n" + "\n".join(f"help {name}" for name in names.split()), "order.yaml")
    listed = said.after("help")
    for name in names.split():
        assert re.search(rf"^ *{name}\b", listed, re.MULTILINE), name
        assert said.after(f"help {name}").startswith(name)


def test_run_begins_another_with_the_same_breakpoints(folder: Path) -> None:
    said = debug(folder, "b pay\nrun\nkill no\nrun\nstep\nclear\nc\nq", "order.yaml", "--input", "item=tea")
    assert "is over: cancelled" in said.after("kill no")
    assert "stopped before buy/pay (order.yaml:14): breakpoint 1" in said.after("run", 2)
    assert said.after("clear") == "breakpoint 1 is gone"
    assert "is over: succeeded" in said.after("c")
    assert said.code == 0


def test_approvals_pauses_and_refusals_are_said_at_the_prompt(folder: Path) -> None:
    (folder / "go").write_text("")
    said = debug(
        folder,
        "run\nc\nreject\napprove\nmode sideways\nretry work.last\nskip work.slow\nback x\ngoto 999\nset x\nq",
        "slow.yaml", "-i", f"folder={folder}",
    )  # fmt: skip
    assert "waits for an approval: really?" in said.after("c")
    assert "`approve` lets it begin" in said.after("c")
    assert "expected: reject REASON" in said.after("reject")
    assert "is over: succeeded" in said.after("approve")
    for command in ("mode sideways", "retry work.last", "skip work.slow", "back x", "goto 999", "set x"):
        assert said.after(command).startswith("error: "), command
    assert said.code == 0


def test_loops_stop_at_one_item(folder: Path) -> None:
    said = debug(folder, "b say if item == 2\nrun\nbt\nprint item * 10\nprint index\nc\nq", "each.yaml")
    assert "stopped before every[1]/say" in said.after("run")
    assert "item=2" in said.after("bt")
    assert (said.after("print item * 10"), said.after("print index")) == ("20", "1")
    assert "is over: succeeded" in said.after("c")


def test_sub_workflows_are_stepped_over_and_into(folder: Path) -> None:
    over = debug(folder, "run\nstep\nstep\nq", "parent.yaml")
    assert "stopped before main/after" in over.after("step")
    assert "is over: succeeded" in over.after("step", 2)
    into = debug(folder, "run\ninto\nb mail\nc\nout\nc\nq", "parent.yaml")
    assert "a sub-workflow of" in into.after("into")
    assert "stopped before buy/price" in into.after("into")
    assert "stopped before tell/mail" in into.after("c")
    assert "stopped before main/after" in into.after("out")
    assert "is over: succeeded" in into.after("c", 2)


def test_left_run_is_attached_to_and_goes_on_here(folder: Path, noa: Noa) -> None:
    left = debug(folder, "run\nstep\nquit", "order.yaml", "-i", "item=tea")
    assert left.code == 4
    assert "Go on with: noa debug --attach" in left.after("quit")
    said = debug(folder, "where\ndetach", "--attach", "latest")
    assert "was driven by nobody: it goes on here" in said.text
    assert "stopped before buy/pay" in said.text
    assert "is over: succeeded" in said.after("detach")
    assert said.code == 0
    noa.home = folder / "home"
    assert len(noa.events("attempt_succeeded")) == 4


def test_run_that_is_over_is_looked_at_from_its_beginning(folder: Path, noa: Noa) -> None:
    noa.home = folder / "home"
    assert noa("run", folder / "order.yaml", "--plugin", folder / "shop.py").returncode == 1
    before = noa.events()
    said = debug(
        folder,
        "s\ns\nb on failure\nc\ninputs\nn\nc\nskip buy.pay\nrewind\nb tell.nope\nclear 1\nq",
        "--attach", "latest",
    )  # fmt: skip
    assert "is over (failed): it can be looked at" in said.text
    assert "stage buy begins" in said.after("s")
    assert "buy/price begins" in said.after("s", 2)
    assert "TOO_MUCH" in said.after("c")
    assert said.after("inputs") == "cents  1500"
    assert "you look at its end" in said.after("c", 2)
    assert said.after("skip buy.pay").startswith("error: ")
    assert "(breakpoint 1)" in said.after("rewind")
    assert said.code == 0
    assert noa.events() == before


def test_run_of_another_process_is_stopped_and_given_back(folder: Path, noa: Noa) -> None:
    noa.home = folder / "home"
    args = ["run", folder / "slow.yaml", "--plugin", folder / "shop.py", "-i", f"folder={folder}", "--mode", "auto"]
    process = noa.start(*args)
    try:
        noa.wait_for_events(1, "task_scheduled")
        terminal = Terminal(folder, "--attach", "latest")
        with terminal:
            terminal.wait("it stops (was in auto)")
            terminal.key("\x03")
            terminal.wait("(noa) ")
            (folder / "go").write_text("")
            noa.wait_for_events(1, "task_held")
            terminal.type("where", "held     work/after")
            terminal.key("detach\n")
            terminal.wait("goes on in mode auto")
            assert terminal.end() == 0
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1, "in mode auto nobody is waited for, and the approval is refused"
        assert "REJECTED" in out
    finally:
        if process.poll() is None:
            kill(process)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "name either a FILE"),
        (["order.yaml", "--attach", "latest"], "name either a FILE"),
        (["--attach", "latest"], "does not exist"),
        (["--attach", "latest", "-i", "a=1"], "--input goes with FILE"),
        (["nope.yaml"], "nope.yaml"),
        (["shop.py"], "shop.py:"),
        (["slow.yaml"], "folder"),
        (["slow.yaml", "--inputs", "-"], "name a file for --inputs"),
    ],
)
def test_wrong_calls_are_explained(folder: Path, args: list[str], why: str) -> None:
    said = debug(folder, "run", *args)
    assert said.code in (1, 2)
    assert why in said.text
    assert "(noa)" not in said.text


# --- at a terminal ----------------------------------------------------------------------------------------------------


@dataclass
class Terminal:
    """A session at a terminal of its own."""

    folder: Path
    args: tuple[str, ...]
    shown: str = ""
    _master: int = -1
    _process: subprocess.Popen[bytes] | None = field(default=None)

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder, self.args, self.shown = folder, args, ""

    def __enter__(self) -> "Terminal":
        self._master, slave = pty.openpty()
        env = {**os.environ, "NOA_HOME": "home", "NO_COLOR": "1", "TERM": "xterm", "INPUTRC": "/dev/null"}
        self._process = subprocess.Popen(
            [NOA, "debug", *self.args, "--plugin", "shop.py"],
            cwd=self.folder, env=env, stdin=slave, stdout=slave, stderr=slave, close_fds=True,
            start_new_session=True, preexec_fn=_own_terminal,  # noqa: PLW1509
        )  # fmt: skip
        os.close(slave)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    def key(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def type(self, line: str, expected: str) -> None:
        """A line, and what is shown after it."""
        start = len(self.shown)
        self.key(f"{line}\n")
        self.wait(expected, start)
        self.wait("(noa) ", self.shown.index(expected, start))

    def wait(self, text: str, start: int = 0, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while text not in self.shown[start:]:
            assert time.monotonic() < end, f"{text!r} was not shown:\n{self.shown}"
            self._read(0.1)

    def end(self) -> int:
        """The exit code, once it ended."""
        assert self._process is not None
        end = time.monotonic() + 60
        while self._process.poll() is None:
            assert time.monotonic() < end, self.shown
            self._read(0.05)
        while self._read(0):
            pass
        assert "Traceback" not in self.shown, self.shown
        return self._process.returncode

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # nobody has it open any more
            return False
        self.shown += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def slow(folder: Path) -> Iterator[Terminal]:
    with Terminal(folder, "slow.yaml", "-i", f"folder={folder}") as terminal:
        terminal.wait("(noa) ")
        yield terminal


def test_ctrl_c_comes_back_to_the_prompt_and_stops_the_run(slow: Terminal, folder: Path) -> None:
    slow.type("run", "stopped before work/slow")
    slow.key("c\n")
    deadline = time.monotonic() + 60
    while not (folder / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    slow.key("\x03")
    slow.wait("it stops before the next task that begins; goes on: work/slow")
    slow.type("why", "work/slow")
    slow.key("half a line\x03")
    slow.wait("`quit` leaves the debugger")
    (folder / "go").write_text("")
    slow.type("c", "waits for an approval: really?")
    slow.type("approve", "is over: succeeded")
    slow.key("q\n")
    assert slow.end() == 0


def test_quit_asks_what_becomes_of_the_run_and_history_is_kept(slow: Terminal, folder: Path) -> None:
    slow.type("st", "stopped before work/slow")
    slow.key("quit\n")
    slow.wait("[l]eave it stopped, [d]etach and let it go on, [k]ill it, [c]ancel quitting? [l] ")
    slow.key("c\n")
    slow.type("where", "held     work/slow")
    slow.key("q\n")
    slow.wait("? [l] ", slow.shown.index("held     work/slow"))
    slow.key("k\n")
    assert slow.end() == 3
    assert "is over: cancelled" in slow.shown
    assert "where" in (folder / "home" / "debug_history").read_text().splitlines()


def test_tab_completes_commands_and_tasks(slow: Terminal) -> None:
    slow.key("brea\t")
    slow.wait("break ")
    slow.key("work/af\t\n")
    slow.wait("breakpoint 1 before work/after")
    slow.key("q\n")
    assert slow.end() == 0

"""How an agent starts: its address, its variables, its version; and that what it prints disturbs nothing."""

from __future__ import annotations

import signal

from noa.testing.conformance.bench import LISTEN_S, SLACK_S, Bench
from noa.testing.conformance.case import Violation, case, expect
from noa.testing.conformance.client import outputs_of
from noa.testing.conformance.process import AgentProcess

__all__: list[str] = []

_EXIT_USAGE = 64
_VARIABLES = ("NOA_AGENT_LISTEN", "NOA_AGENT_TOKEN", "NOA_AGENT_PROTOCOL")
_OTHER_PROTOCOL = "7734"
_STDERR_BYTES = 1 << 20


@case(
    "launch.unix",
    "An agent listens on the unix socket that NOA_AGENT_LISTEN names within 10 s, and answers Health there.",
    advice="Bind the path after `unix:` before anything slow is loaded, and serve plain HTTP/2 with any authority, "
    "`localhost` too (Launch: started).",
    needs="command",
)
async def listens_on_a_unix_socket(bench: Bench) -> None:
    await bench.unix()


@case(
    "launch.tcp",
    "An agent listens on 127.0.0.1:PORT where NOA_AGENT_LISTEN says so, within 10 s, and answers Health there.",
    advice="NOA_AGENT_LISTEN is either `unix:/path` or `127.0.0.1:PORT`; bind that very address (Launch: the table of "
    "variables).",
    needs="command",
)
async def listens_on_a_port(bench: Bench) -> None:
    async with bench.fresh(tcp=True, serving=False):
        pass


@case(
    "launch.variables",
    "Each of the three variables missing or empty ends the agent with status 64 and one line on stderr that names it.",
    advice="Before anything else check NOA_AGENT_PROTOCOL, NOA_AGENT_LISTEN and NOA_AGENT_TOKEN; assume no default; "
    "print one line to stderr and exit with 64 (Launch: missing or empty).",
    needs="command",
)
async def wants_its_variables(bench: Bench) -> None:
    started = [(name, value, bench.launch(env={name: value})) for name in _VARIABLES for value in (None, "")]
    try:
        for name, value, process in started:
            await _refuses(process, f"with {name} {'missing' if value is None else 'empty'}", name)
    finally:
        for _, _, process in started:
            bench.end_process(process)


@case(
    "launch.protocol",
    "NOA_AGENT_PROTOCOL of another version ends the agent with status 64 and one line on stderr with both versions.",
    advice="Compare NOA_AGENT_PROTOCOL with the versions that the agent speaks (`1`); where it is none of them, print "
    "one line with both to stderr and exit with 64 (Launch: not one that it speaks).",
    needs="command",
)
async def refuses_another_protocol(bench: Bench) -> None:
    process = bench.launch(env={"NOA_AGENT_PROTOCOL": _OTHER_PROTOCOL})
    try:
        await _refuses(process, f"with NOA_AGENT_PROTOCOL={_OTHER_PROTOCOL}", _OTHER_PROTOCOL)
        line = process.stderr.replace(_OTHER_PROTOCOL, "")
        expect("1" in line, f"the line on stderr does not say that the agent speaks version 1: {process.stderr!r}")
    finally:
        bench.end_process(process)


@case(
    "launch.sigint",
    "SIGINT does nothing to an agent: who presses Ctrl-C talks to the engine, which tells its agents what to do.",
    advice="Ignore SIGINT in the agent's process (Launch: SIGINT).",
    needs="command work",
)
async def ignores_sigint(bench: Bench) -> None:
    client = await bench.client()
    process = client.process
    assert process is not None
    process.send(signal.SIGINT)
    status = await process.wait_exit(0.3)
    expect(status is None, f"the agent's process ended with status {status} after SIGINT")
    outputs_of(await client.execute(client.work()))


@case(
    "launch.output",
    "1 MiB that work writes to stderr disturbs nothing: it is all there, the work ends well, Health answers.",
    advice="Let stdout and stderr be what the process inherited, parse nothing, and let no lock of the logger be held "
    "while calls are served (Launch: writes to stdout or stderr).",
    needs="command echo.stderr_bytes",
)
async def may_write_much(bench: Bench) -> None:
    client = await bench.client()
    assert client.process is not None
    before = client.process.stderr_bytes
    stream = client.open(client.echo(stderr_bytes=_STDERR_BYTES, mark="after"))
    await client.health()
    outputs = outputs_of(await stream.terminal())
    expect(
        isinstance(outputs, dict) and outputs.get("echo", {}).get("mark") == "after",
        f"the work that wrote to stderr answered {str(outputs)[:200]}",
    )
    written = client.process.stderr_bytes - before
    expect(written >= _STDERR_BYTES, f"of {_STDERR_BYTES} bytes that it should write to stderr {written} arrived")
    await client.health()


async def _refuses(process: AgentProcess, how: str, named: str) -> None:
    """Check that a launched process says one line with this word and exits with 64."""
    status = await process.wait_exit(LISTEN_S + SLACK_S)
    if status is None:
        raise Violation(f"launched {how}, the agent still ran after {LISTEN_S:g} s")
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    printed = process.last_lines() or "It printed nothing to stderr."
    expect(status == _EXIT_USAGE, f"launched {how}, the agent ended with status {status}, not {_EXIT_USAGE}. {printed}")
    expect(len(lines) == 1, f"launched {how}, the agent printed {len(lines)} lines to stderr, not one. {printed}")
    expect(named in lines[0], f"launched {how}, its line on stderr does not name '{named}': {lines[0]!r}")

"""`noa agent check`: the conformance program on a terminal or in a CI job."""

from __future__ import annotations

import json
import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, plugin_option, style

if TYPE_CHECKING:
    from noa.plugin import AgentDeclaration
    from noa.testing.conformance import CaseResult, Report, Target

__all__ = ["check"]

_FORMATS = ("text", "json", "junit")
_COLORS = {"passed": "green", "failed": "red", "skipped": "yellow"}
_TERMINATED = 143
_PROBE_S = 5.0
_OURS = ("NOA_AGENT_LISTEN", "NOA_AGENT_TOKEN", "NOA_AGENT_PROTOCOL")


@click.command(
    cls=NoaCommand,
    name="check",
    short_help="Check case by case that an agent keeps the contract.",
)
@click.argument("words", nargs=-1, metavar="[NAME | -- PROGRAM ARGUMENTS...]")
@click.option("--command", "line", metavar="LINE", help="Launch this, split into words as a shell does.")
@click.option("--address", metavar="HOST:PORT", help="Check an agent that listens there already.")
@click.option("--token", metavar="TOKEN", help="Token for --address. Others see it: --token-env is better.")
@click.option("--token-env", metavar="VARIABLE", help="Variable that holds the token for --address.")
@click.option("--ca-file", metavar="FILE", help="Certificates that the agent at --address may be signed by: use TLS.")
@click.option("--cert-file", metavar="FILE", help="Own certificate chain, for mutual TLS.")
@click.option("--key-file", metavar="FILE", help="Own private key, for mutual TLS.")
@click.option("--server-name", metavar="NAME", help="Name in the agent's certificate where it is not the host.")
@click.option("--only", multiple=True, metavar="ID", help="This case, or those of a pattern (cancel.*); repeatable.")
@click.option("--action", "actions", multiple=True, metavar="NAME",
              help="An action that ends well, for an agent without echo; repeatable.")  # fmt: skip
@click.option("--input", "inputs", multiple=True, metavar="JSON",
              help="Input of the --action at the same place. Default: {}.")  # fmt: skip
@click.option("--env", multiple=True, metavar="K=V", help="A variable for the launched agent; repeatable.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, metavar="SECONDS",
              help="How long one answer may take before the agent counts as hanging.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(_FORMATS), default="text", show_default=True,
              help="How the result is written.")  # fmt: skip
@click.option("--output", metavar="FILE", help="Write the result there; progress is shown on the terminal.")
@click.option("--list", "as_list", is_flag=True, help="List the cases with what they require, and end.")
@plugin_option
@click.pass_context
def check(ctx: click.Context, /, **given: Any) -> None:
    """Check case by case that an agent keeps agents/CONTRACT.md, over the wire only, and say what to change.

    The agent is launched as an engine launches it: with NOA_AGENT_LISTEN, NOA_AGENT_TOKEN, NOA_AGENT_PROTOCOL and
    NOA_AGENT_CONFORMANCE=1, a TMPDIR of its own, and beside them only PATH, HOME, LANG, LC_ALL, TZ and what --env
    gives. Many cases use the action echo of the contract; where the agent has none, name another one by --action. A
    case that does not apply is skipped and says why.

    NAME is an agent that a plugin declares as a sidecar (noa agents).

    \b
    Examples:
      noa agent check --command "./my-agent --verbose"
      noa agent check -- python -m noa.sdk my_module:MyAgent
      noa agent check --only 'cancel.*' --only launch.stdin-end --command ./my-agent
      noa agent check --action resize --input '{"width": 10}' --command ./my-agent
      noa agent check --address agents.example.org:7000 --token-env AGENT_TOKEN --ca-file ca.pem
      noa agent check --command ./my-agent --format junit --output conformance.xml
      noa agent check --list

    Exit codes: 0 every case passed or was skipped, 1 a case failed, 2 the call is wrong, 3 interrupted.
    """
    if given["as_list"]:
        _list(given["only"], as_json=given["form"] == "json")
        return
    target = _target(**given)
    if target.ca_file or target.cert_file:
        _look_at_files(target)
    if given["output"] and not Path(given["output"]).absolute().parent.is_dir():
        from noa.errors import UsageError

        raise UsageError(f"the result cannot be written to {given['output']}: its folder does not exist")
    # Progress must not stand between the lines of a result that a program reads.
    aside = given["form"] != "text" and not given["output"]
    report = _run(target, given["only"], to_stderr=aside)
    _write(report, given["form"], given["output"])
    if target.address and not report.ok and (found := _obstacle(target)):
        click.echo(f"\n{target.address}: {found}", err=True)
    click.echo(f"\n{style(report.summary(), 'green' if report.ok else 'red')}", err=aside)
    ctx.exit(NoaCommand.SUCCEEDED if report.ok else NoaCommand.FAILED)


def _look_at_files(target: Target) -> None:
    """See that the files for TLS can be used, before gRPC says so in words of its own.

    Raises:
        UsageError: One cannot.
    """
    from noa.errors import AgentStartError, UsageError
    from noa.orchestration.tls import read_tls

    try:
        read_tls(_as_declared(target))
    except AgentStartError as error:
        raise UsageError(error.message.removeprefix("agent 'checked': ")) from error


def _obstacle(target: Target) -> str:
    """Why an address cannot be reached, from a handshake of our own, since gRPC does not say; empty where it can."""
    import asyncio

    from noa.orchestration.probe import probe
    from noa.orchestration.tls import read_tls

    found = asyncio.run(probe(target.address, read_tls(_as_declared(target)), _PROBE_S))
    return found.text if found is not None else ""


def _as_declared(target: Target) -> AgentDeclaration:
    from noa.plugin import AgentDeclaration

    files = {"ca_file": target.ca_file, "cert_file": target.cert_file, "key_file": target.key_file}
    options = {name: str(value) for name, value in {**files, "server_name": target.server_name}.items() if value}
    return AgentDeclaration("checked", kind="remote", addresses=(target.address,), options=options)


def _list(only: tuple[str, ...], *, as_json: bool) -> None:
    from noa.testing.conformance import select_cases

    cases = select_cases(only)
    if as_json:
        rows = [{"id": case.id, "requirement": case.requirement, "needs": list(case.needs)} for case in cases]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for case in cases:
        needs = f" Needs {', '.join(case.needs)}." if case.needs else ""
        click.echo(f"{style(case.id, bold=True)}\n    {case.requirement}{style(needs, dim=True)}")


def _run(target: Target, only: tuple[str, ...], *, to_stderr: bool) -> Report:
    import asyncio
    import signal

    from noa.testing.conformance import check as check_agent

    def show(result: CaseResult) -> None:
        from noa.testing.conformance import line_of

        head, _, rest = line_of(result).partition("\n")
        click.echo(style(head, _COLORS[result.status]) + (f"\n{rest}" if rest else ""), err=to_stderr)

    received: list[signal.Signals] = []

    async def run() -> Report:
        task = asyncio.current_task()
        assert task is not None

        def end(number: signal.Signals) -> None:
            received.append(number)
            task.cancel()

        # Also where who started us ignores SIGINT, as a shell does for a job in the background. Both end the agents.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        return await check_agent(target, only=only, on_result=show)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if signal.SIGTERM not in received:
            raise KeyboardInterrupt from None
        click.echo("terminated", err=True)
        raise SystemExit(_TERMINATED) from None


def _write(report: Report, form: str, output: str | None) -> None:
    from noa.errors import UsageError

    text = {"text": report.to_text, "json": report.to_json, "junit": report.to_junit}[form]()
    if output:
        try:
            Path(output).write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the result cannot be written to {output}: {error.strerror}") from error
    elif form != "text":
        click.echo(text, nl=False)


def _target(
    *,
    words: tuple[str, ...],
    line: str | None,
    address: str | None,
    token: str | None,
    token_env: str | None,
    env: tuple[str, ...],
    actions: tuple[str, ...],
    inputs: tuple[str, ...],
    timeout: float,
    plugins: tuple[str, ...],
    ca_file: str | None,
    cert_file: str | None,
    key_file: str | None,
    server_name: str | None,
    **_: Any,
) -> Target:
    """The agent that the options mean.

    Raises:
        UsageError: They are at odds, or not what they must be.
    """
    from noa.errors import UsageError
    from noa.testing.conformance import Target

    if sum(map(bool, (words, line, address))) != 1:
        raise UsageError(
            "say which agent is to be checked, in one way: --command './my-agent', or -- PROGRAM ARGUMENTS, or "
            "--address HOST:PORT, or the NAME of an agent that a plugin declares"
        )
    command: tuple[str, ...] = words
    variables: dict[str, str] = {}
    cwd = None
    if line:
        command = tuple(_split(line))
    elif len(words) == 1 and (declared := _declared(words[0], plugins)) is not None:
        command, variables, cwd = declared
    if (token or token_env or ca_file or cert_file or key_file or server_name) and not address:
        raise UsageError("--token, --ca-file and the like go with --address: a launched agent gets its token from here")
    if bool(cert_file) != bool(key_file):
        raise UsageError("--cert-file and --key-file go together")
    if address and not _is_address(address):
        raise UsageError(f"--address '{address}': expected HOST:PORT, such as agents.example.org:7000, or unix:/PATH")
    if not math.isfinite(timeout):
        raise UsageError(f"--timeout {timeout}: expected a number of seconds")
    return Target(
        command=command,
        address=address or "",
        token=_token(token, token_env),
        env={**variables, **dict(map(_variable, env))},
        cwd=cwd,
        actions=_actions(actions, inputs),
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
        server_name=server_name,
        step_timeout_s=timeout,
    )


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    if text.startswith("unix:"):
        return len(text) > len("unix:")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _split(line: str) -> list[str]:
    from noa.errors import UsageError

    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"--command {line!r} cannot be split into words: {error}") from error
    if not words:
        raise UsageError("--command is empty: give the agent's program and its arguments")
    return words


def _declared(name: str, plugins: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str], str | None] | None:
    """Command, variables and working folder of a declared sidecar; None where the word is a program.

    Raises:
        UsageError: The agent is no sidecar, or the word is neither.
    """
    from noa.errors import UsageError
    from noa.plugin import Registry
    from noa.testing.conformance import Target

    if os.sep in name:
        return None
    agents = Registry.load(plugins).agents
    if name in agents:
        agent = agents[name]
        if not agent.command:
            raise UsageError(
                f"agent '{name}' is reached as '{agent.kind}', so there is nothing to launch. Give --address for a "
                "remote agent, or for a Python class: -- python -m noa.sdk MODULE:CLASS"
            )
        return agent.command, dict(agent.env), agent.cwd
    try:
        Target(command=(name,)).resolved()
    except UsageError as error:
        declared = ", ".join(agents)
        raise UsageError(f"'{name}' is neither a declared agent nor a program in PATH. Declared: {declared}") from error
    return None


def _token(token: str | None, variable: str | None) -> str:
    from noa.errors import UsageError

    if token and variable:
        raise UsageError("give --token or --token-env, not both")
    if variable is None:
        return token or ""
    value = os.environ.get(variable, "")
    if not value:
        raise UsageError(f"the variable {variable}, which --token-env names, is not set")
    return value


def _variable(text: str) -> tuple[str, str]:
    from noa.errors import UsageError

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--env {text!r}: expected NAME=VALUE")
    if name in _OURS:
        raise UsageError(f"--env {text!r}: {name} is set by the check itself")
    return name, value


def _actions(names: tuple[str, ...], inputs: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    from noa.errors import UsageError

    if len(inputs) > len(names):
        raise UsageError("each --input belongs to an --action: name the action too")
    asked = {}
    for i, name in enumerate(names):
        text = inputs[i] if i < len(inputs) else "{}"
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UsageError(f"--input {text!r} of action '{name}' is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UsageError(f"--input {text!r} of action '{name}' is not a JSON object")
        asked[name] = value
    return asked

"""`noa dap`: the debugger for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from noa.modes.dap import Runs

__all__ = ["command"]

_CHUNK = 1 << 16


@click.command(cls=NoaCommand, name="dap", short_help="Serve the debugger to an editor (Debug Adapter Protocol).")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Listen on 127.0.0.1:N; 0 takes a free port.")
def command(*, port: int | None) -> None:
    """Speak the Debug Adapter Protocol on stdin and stdout, or to whoever connects to a port of this machine.

    Editors start it: breakpoints on the lines of a definition, steps, the call stack, variables that can be changed,
    expressions, steps back in time. What an editor's launch.json says is in docs/debugging.md.

    \b
    Examples:
      noa dap
      noa dap --port 4711

    Nothing but the protocol is on stdout; logs go to stderr. With a port each connection is a session of its own, and
    the program goes on until Ctrl-C. Who can connect can run workflows as you: the port is open to this machine only.
    """
    from noa.cli.session import run_async

    if port is None:
        run_async(_stdio)
    else:
        run_async(lambda: _serve(port))


async def _stdio() -> None:
    """One session. What agents of this process print must not get between messages: it goes to stderr."""
    import asyncio
    import contextlib
    import os
    import sys
    import threading

    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone
            while data := os.read(0, _CHUNK):
                loop.call_soon_threadsafe(reader.feed_data, data)
            loop.call_soon_threadsafe(reader.feed_eof)

    # A thread, as stdin may be a file or a terminal, too; a daemon, as nobody can end its waiting.
    threading.Thread(target=read, name="noa-dap-stdin", daemon=True).start()

    def send(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[out.write(rest) :]

    try:
        await _converse(reader, send)
    finally:
        out.close()


async def _serve(port: int) -> None:
    import asyncio

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _converse(reader, writer.write)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    number = server.sockets[0].getsockname()[1]
    click.echo(f"listening on 127.0.0.1:{number}", err=True)
    async with server:
        await server.serve_forever()


async def _converse(reader: asyncio.StreamReader, send: Callable[[bytes], Any]) -> None:
    """Until the editor disconnects, goes away or says what cannot be read."""
    from noa.modes.dap import Reader, Session, encode

    gone = False

    def tell(message: dict[str, Any]) -> None:
        nonlocal gone
        if not gone:
            try:
                send(encode(message))
            except OSError:
                gone = True

    session, frames = Session(tell, _open_runs()), Reader()
    try:
        while not session.over and not gone:
            data = await reader.read(_CHUNK)
            if not data:
                if frames.half:
                    click.echo("noa dap: the editor went away amid a message", err=True)
                break
            for message in frames.feed(data):
                await session.handle(message)
                if session.over:
                    break
    except ConnectionError:
        pass
    finally:
        await session.close()


def _open_runs() -> Callable[[str | None, Sequence[str], bool], Awaitable[Runs]]:
    async def open_runs(home: str | None, plugins: Sequence[str], existing: bool) -> Runs:
        from noa.cli.command import settings_of
        from noa.cli.debugging.host import Host

        settings = settings_of(home, tuple(plugins))
        if existing:
            Host.check_home(settings)
        return await Host(settings).__aenter__()

    return open_runs

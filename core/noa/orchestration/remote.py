"""The connection to an agent that somebody else runs."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from noa.errors import AgentLostError, AgentStartError, NoaError, UsageError
from noa.orchestration.grpc_connection import GrpcConnection, channel_options
from noa.orchestration.probe import Finding, probe
from noa.orchestration.tls import ClientTls, read_tls
from noa.plugin import AgentHealth
from noa.sdk.tls_files import read_file

__all__ = ["RemoteConnection"]

log = logging.getLogger("noa.orchestration")

_CONNECT_TIMEOUT_S = 10.0
_ALIVE_S = 1.0
_SETTLE_S = 0.1
_PROBE_EVERY_S = 1.0
_PROBE_S = 3.0
_LOOPBACK = ("127.", "localhost:", "[::1]:", "unix:")


class RemoteConnection(GrpcConnection):
    """Reaches one of the declaration's addresses, with TLS and a token where they are configured.

    An address that cannot be reached any more is lost at once, so that its pool sends work elsewhere; its supervisor
    connects again, for ever.
    """

    _tls: ClientTls | None = None
    _probed_at = float("-inf")
    _finding: Finding | None = None

    async def start(self) -> AgentHealth:
        """Connect and wait until Health says serving.

        Raises:
            AgentStartError: Nothing answers there in time, a file cannot be used, the TLS handshake fails, or it cannot
                work. The message says which side must change what.
            AgentUnauthenticatedError: It refuses the token.
        """
        options = self._declaration.options
        loop = asyncio.get_running_loop()
        start_s = self._declaration.start_timeout_s
        connect_s = min(float(options.get("connect_timeout_s", _CONNECT_TIMEOUT_S)), start_s)
        try:
            # Files are read at each connection, so that a renewed certificate or token needs no restart.
            self._tls = await asyncio.to_thread(read_tls, self._declaration)
            token = self._read_token()
            self._warn_of_plain_text(token)
            self._open(self._make_channel(), token)
            health = await self._until_serving(loop.time() + start_s, loop.time() + connect_s)
        except AgentStartError as error:
            await self.close(grace_s=0.0)
            raise type(error)(f"{error.message}. Address: {self._address}", **error.parts) from error
        except BaseException:
            await self.close(grace_s=0.0)
            raise
        self._watch()
        return health

    @property
    def _address(self) -> str:
        return self._declaration.addresses[self._replica]

    def _make_channel(self) -> grpc.aio.Channel:
        # The contract lets agents complain about pings more often than one in ten seconds.
        extra: list[tuple[str, Any]] = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 5_000)]
        tls = self._tls
        if tls is None:
            return grpc.aio.insecure_channel(self._address, options=channel_options(*extra))
        if tls.server_name:
            extra.append(("grpc.ssl_target_name_override", tls.server_name))
        return grpc.aio.secure_channel(self._address, tls.credentials(), options=channel_options(*extra))

    async def _explain(self, error: AgentLostError) -> str:
        """What a handshake by hand finds in the way; the sooner told where waiting will not help."""
        now = asyncio.get_running_loop().time()
        if error.parts.get("status") == "UNAVAILABLE" and now - self._probed_at >= _PROBE_EVERY_S:
            self._probed_at = now
            if not self._address.startswith("unix:"):
                self._finding = await probe(self._address, self._tls, _PROBE_S)
        found = self._finding
        if found is None:
            return await super()._explain(error)
        if found.final:
            raise AgentStartError(
                f"agent '{self._name}' cannot be reached: {found.text}", agent=self._name, permanent=True
            )
        return f"it does not answer: {found.text}"

    async def _alive(self) -> bool:
        try:
            await self._health(_ALIVE_S)
        except AgentLostError as error:
            # Not after a mere silence: that is for the watch over Health to judge.
            if error.parts.get("status") == "UNAVAILABLE":
                # Calls that wait for the connection fail with it, each in its own words: that nothing was sent.
                await asyncio.sleep(_SETTLE_S)
                self._lose(f"{self._address} cannot be reached any more ({error.message})")
            return False
        except NoaError:
            return False
        return self._lost is None and not self._closed

    def _warn_of_plain_text(self, token: str) -> None:
        if token and self._tls is None and not self._address.startswith(_LOOPBACK):
            log.warning(
                "agent '%s': its token and all data go to %s in plain text. Set ca_file or tls",
                self._name,
                self._address,
            )

    def _read_token(self) -> str:
        options = self._declaration.options
        if token := str(options.get("token") or "").strip():
            return token
        if variable := options.get("token_env"):
            token = os.environ.get(str(variable), "")
            if not token:
                raise self._refused(f"options.token_env names the variable {variable}, which is not set")
            return token
        if not options.get("token_file"):
            return ""
        path = Path(str(options["token_file"]))
        try:
            token = read_file(path, "options.token_file").decode("utf-8", "replace").strip()
        except UsageError as error:
            raise self._refused(error.message) from error
        if not token:
            raise self._refused(f"options.token_file: {path} is empty")
        return token

    def _refused(self, text: str) -> AgentStartError:
        return AgentStartError(f"agent '{self._name}': {text}", agent=self._name, permanent=True)

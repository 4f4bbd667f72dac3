"""The connection to an agent that somebody else runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from noa.errors import AgentStartError
from noa.orchestration.grpc_connection import GrpcConnection, channel_options
from noa.plugin import AgentHealth

__all__ = ["RemoteConnection"]

_CONNECT_TIMEOUT_S = 10.0


class RemoteConnection(GrpcConnection):
    """Reaches one of the declaration's addresses, with TLS and a token where they are configured."""

    async def start(self) -> AgentHealth:
        """Connect and wait until Health says serving.

        Raises:
            AgentStartError: Nothing answers there in time, a file cannot be read, or it cannot work.
            AgentUnauthenticatedError: It refuses the token.
        """
        options = self._declaration.options
        address = self._declaration.addresses[self._replica]
        loop = asyncio.get_running_loop()
        start_s = self._declaration.start_timeout_s
        connect_s = min(float(options.get("connect_timeout_s", _CONNECT_TIMEOUT_S)), start_s)
        try:
            self._open(self._make_channel(address), self._read_token())
            health = await self._until_serving(loop.time() + start_s, loop.time() + connect_s)
        except AgentStartError as error:
            await self.close(grace_s=0.0)
            raise type(error)(f"{error.message}. Address: {address}", **error.parts) from error
        except BaseException:
            await self.close(grace_s=0.0)
            raise
        self._watch()
        return health

    def _make_channel(self, address: str) -> grpc.aio.Channel:
        options: dict[str, Any] = dict(self._declaration.options)
        # The contract lets agents complain about pings more often than one in ten seconds.
        extra: list[tuple[str, Any]] = [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 5_000)]
        if name := options.get("server_name"):
            extra.append(("grpc.ssl_target_name_override", str(name)))
        if not (options.get("tls") or options.get("ca_file") or options.get("cert_file")):
            return grpc.aio.insecure_channel(address, options=channel_options(*extra))
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._read_option("ca_file"),
            private_key=self._read_option("key_file"),
            certificate_chain=self._read_option("cert_file"),
        )
        return grpc.aio.secure_channel(address, credentials, options=channel_options(*extra))

    def _read_token(self) -> str:
        variable = self._declaration.options.get("token_env")
        if variable:
            token = os.environ.get(str(variable), "")
            if not token:
                raise AgentStartError(
                    f"agent '{self._name}': options.token_env names the variable {variable}, which is not set",
                    agent=self._name,
                    permanent=True,
                )
            return token
        data = self._read_option("token_file")
        return data.decode().strip() if data is not None else ""

    def _read_option(self, option: str) -> bytes | None:
        path = self._declaration.options.get(option)
        if not path:
            return None
        try:
            return Path(str(path)).read_bytes()
        except OSError as error:
            raise AgentStartError(
                f"agent '{self._name}': options.{option}: {error}", agent=self._name, permanent=True
            ) from error

"""Faults of every call and of Health."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from noa.agent.v1 import agent_service_pb2 as pb

from .actions import Actions
from .agent import ReferenceAgent
from .executions import Execution
from .fault import fault
from .messages import WorkFailed
from .serving import SERVICES

SERVING = 1


@fault("calls.token-missing", "without a token")
class TakesCallsWithoutAToken(ReferenceAgent):
    """A token is checked only where there is one."""

    def is_authentic(self, given: str | None) -> bool:
        return given is None or super().is_authentic(given)


@fault("calls.token-missing:cancel", "cancel without a token")
class AnyoneMayCancel(ReferenceAgent):
    """Cancel asks for no token, but takes no wrong one."""

    async def authenticate(self, request: Any, context: Any) -> None:
        named = "authorization" in dict(context.invocation_metadata())
        if named or not isinstance(request, pb.CancelRequest):
            await super().authenticate(request, context)


@fault("calls.token-wrong", "another last character", "unauthenticated")
class TakesAnyTokenOfThisLength(ReferenceAgent):
    """Compares the lengths."""

    def is_authentic(self, given: str | None) -> bool:
        return given is not None and len(given) == len(f"Bearer {self.token}")


@fault("calls.token-wrong:prefix", "but its last character")
class ComparesTheBeginning(ReferenceAgent):
    """Takes a token that begins right and lacks its end."""

    def is_authentic(self, given: str | None) -> bool:
        return bool(given) and f"Bearer {self.token}".startswith(given or "") and len(given or "") > len("Bearer ")


@fault("calls.token-wrong:longer", "one more character")
class ComparesNoMoreThanItHas(ReferenceAgent):
    """Takes a token that goes on after its end."""

    def is_authentic(self, given: str | None) -> bool:
        right = f"Bearer {self.token}"
        return hmac.compare_digest((given or "")[: len(right)].encode(), right.encode())


@fault("calls.token-wrong:health", "health with another token")
class HealthTakesAnyToken(ReferenceAgent):
    """Health only looks whether there is one."""

    async def authenticate(self, request: Any, context: Any) -> None:
        named = "authorization" in dict(context.invocation_metadata())
        if not named or not isinstance(request, pb.HealthRequest):
            await super().authenticate(request, context)


class _Strict(ReferenceAgent):
    """Refuses fields that it does not know, in one kind of request."""

    kind: type = object

    async def authenticate(self, request: Any, context: Any) -> None:
        await super().authenticate(request, context)
        if isinstance(request, self.kind) and len(UnknownFieldSet(cast("Message", request))):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request has a field that is not known")


@fault("calls.unknown-fields", "execute")
class StrictExecute(_Strict):
    """Execute refuses fields that it does not know."""

    kind = pb.ExecuteRequest


@fault("calls.unknown-fields:health", "health")
class StrictHealth(_Strict):
    """Health refuses fields that it does not know."""

    kind = pb.HealthRequest


@fault("calls.unknown-fields:cancel", "cancel")
class StrictCancel(_Strict):
    """Cancel refuses fields that it does not know."""

    kind = pb.CancelRequest


@fault("calls.message-limit", "above 4 mib")
class TakesMessagesOfAnySize(ReferenceAgent):
    """Sets no limit."""

    message_limit = -1


@fault("calls.message-limit:small", "resource_exhausted", "1048576")
class TakesSmallMessagesOnly(ReferenceAgent):
    """Leaves no room for large messages."""

    message_limit = 1 << 20


@fault("health.manifest", "more than once", "count_words")
class OffersAnActionTwice(ReferenceAgent):
    """The manifest has two actions of one name."""

    def manifest(self) -> pb.Manifest:
        manifest = super().manifest()
        manifest.actions.add().CopyFrom(manifest.actions[1])
        return manifest


@fault("health.manifest:version", "version")
class HasNoVersion(ReferenceAgent):
    """The manifest does not say which version of the agent it is."""

    def manifest(self) -> pb.Manifest:
        manifest = super().manifest()
        manifest.version = ""
        return manifest


@fault("health.manifest:protocol", "protocol")
class SpeaksNoProtocol(ReferenceAgent):
    """The manifest names no version of the contract."""

    def manifest(self) -> pb.Manifest:
        manifest = super().manifest()
        del manifest.protocol_versions[:]
        return manifest


@fault("health.schemas", "output_schema", "count_words", "words")
class AnnouncesABrokenSchema(ReferenceAgent):
    """The output schema of an action names a type that JSON Schema does not have."""

    def manifest(self) -> pb.Manifest:
        manifest = super().manifest()
        manifest.actions[1].output_schema.update({"properties": {"words": {"type": "int"}}})
        return manifest


@fault("health.loading", "grpc.health.v1", "starting")
class ProbesServeWhileLoading(ReferenceAgent):
    """Stock probes are told SERVING before it can work."""

    load_s = 4.0

    def probes_status(self) -> Any:
        return super().probes_status() if self.loaded else SERVING


@fault("health.loading:manifest", "manifest")
class IsNobodyWhileLoading(ReferenceAgent):
    """Health says STARTING without saying who it is."""

    load_s = 4.0

    def manifest(self) -> pb.Manifest:
        return super().manifest() if self.loaded else pb.Manifest()


@fault("health.loading:works", "overloaded")
class WorksWhileLoading(ReferenceAgent):
    """Begins work before it can do it."""

    load_s = 4.0

    def refusal(self) -> WorkFailed | None:
        return super().refusal() if self.loaded else None


@fault("health.busy", "burned the cores", "median")
class ComputesWhereItAnswers(Actions):
    """Computes on the thread that answers calls, a slice at a time."""

    async def wait(self, execution: Execution, sleep_s: float, burn_s: float, progress: int) -> None:
        end = time.monotonic() + burn_s
        while time.monotonic() < end:
            self.burn(execution, 0.012)
            await asyncio.sleep(0)
        await super().wait(execution, sleep_s, 0, progress)


@fault("health.in-flight", "in_flight = 0")
class CountsNothing(ReferenceAgent):
    """Says that nothing goes on, always."""

    def in_flight(self) -> int:
        return 0


@fault("health.in-flight:ended", "in_flight")
class CountsWhatEnded(ReferenceAgent):
    """Counts executions for ever."""

    def in_flight(self) -> int:
        return len(self.executions.active) + len(self.executions.results)


@fault("health.stock", "noa.agent.v1.agentservice")
class KnowsNoServiceByName(ReferenceAgent):
    """Stock probes may ask for the whole server only."""

    def probes_services(self) -> tuple[str, ...]:
        return SERVICES[:1]


@fault("health.stock:never", "grpc.health.v1", "while health said serving")
class NeverTellsStockProbes(ReferenceAgent):
    """Stock probes are told NOT_SERVING for ever."""

    def probes_status(self) -> Any:
        return 2

"""The serving side of an execution, without a socket: what a test over the wire cannot order."""

from __future__ import annotations

from typing import Any

from sdk_sample_agents import Sample

from noa.agent.v1 import agent_service_pb2 as pb
from noa.sdk.runner import ActionRunner
from noa.sdk.service import AgentService
from noa.sdk.workshop import Workshop


class Call:
    """The part of a gRPC call's context that an execution which is in order needs."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", "Bearer secret"),)


async def test_an_execution_that_ends_before_accepted_is_sent_loses_no_observation(tmp_path: Any) -> None:
    workshop = Workshop(ActionRunner(Sample()))
    workshop.start()
    service = AgentService(workshop, "secret")
    request = pb.ExecuteRequest(
        execution_id="r:s/t:1", run_id="r", task="s/t", action="observe", output_prefix=f"file://{tmp_path}/"
    )
    stream = service.Execute(request, Call())
    assert (await anext(stream)).WhichOneof("event") == "accepted"
    await service.table.wait_idle()  # the client's side is slower than the work
    kinds = [message.WhichOneof("event") async for message in stream]
    assert kinds == ["progress"] * 3 + ["log"] * 4 + ["output", "completed"]

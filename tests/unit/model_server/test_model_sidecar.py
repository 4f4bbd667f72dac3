"""The model server as the engine starts it: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
from noa_model_server.plugin import noa_agents
from noa_standard_agents.preprocessing import PythonAgent

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc
from noa.model.execution import Assignment, Succeeded
from noa.sdk.runner import ActionRunner

TOKEN = (("authorization", "Bearer secret"),)


def test_declaration_imports_nothing_heavy() -> None:
    program = (
        "import sys; from noa_model_server.plugin import noa_agents; print(noa_agents()[0].name, "
        "[m for m in ('onnxruntime', 'numpy', 'pyarrow', 'magika', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ai_model []"


async def test_sidecar_serves_once_loaded_and_infers(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text("import os\n\n\ndef f(x):\n    return os.path.join(x, 'y')\n" * 5)
    asked = Assignment("r:s/t:1", "k", "r", "w", "s", "s/t", 1, "python", "data_preprocessing",
                       {"path": str(tmp_path / "data")})  # fmt: skip
    store = f"file://{tmp_path}/store/"
    prepared = await ActionRunner(PythonAgent()).execute(asked, observe=lambda _: None, artifact_prefix=store)
    assert isinstance(prepared, Succeeded)

    declaration = next(agent for agent in noa_agents() if agent.name == "ai_model")
    with tempfile.TemporaryDirectory(prefix="noa-") as folder:
        listen = f"unix:{folder}/agent.sock"
        env = {
            "PATH": os.environ["PATH"],
            "NOA_AGENT_LISTEN": listen,
            "NOA_AGENT_TOKEN": "secret",
            "NOA_AGENT_PROTOCOL": "1",
        }
        process = subprocess.Popen(declaration.command, stdin=subprocess.PIPE, env=env)
        try:
            async with grpc.aio.insecure_channel(listen) as channel:
                stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
                statuses = []
                while not statuses or statuses[-1] == pb.HEALTH_STATUS_STARTING:
                    health = await stub.Health(pb.HealthRequest(), metadata=TOKEN, timeout=60, wait_for_ready=True)
                    statuses.append(health.status)
                assert statuses[-1] == pb.HEALTH_STATUS_SERVING
                request = pb.ExecuteRequest(
                    execution_id="r:s/t:1", idempotency_key="k", run_id="r", task="s/t", attempt=1, action="inference",
                    artifact_prefix=store,
                )  # fmt: skip
                request.input.inline = json.dumps(prepared.outputs | {"allocation": {"threads": 1}}).encode()
                messages = [message async for message in stub.Execute(request, metadata=TOKEN)]
                kinds = [message.WhichOneof("event") for message in messages]
                assert kinds == ["accepted", "progress", "completed"], messages
                made = json.loads(messages[-1].completed.output.inline)
                assert made["model"]["name"].startswith("standard_")
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(5) == 0

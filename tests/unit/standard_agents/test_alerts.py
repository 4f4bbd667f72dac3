"""Alerts through Apprise to a real HTTP server on the loopback interface."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from noa.model.execution import Log

# Apprise imports modules of the standard library that are deprecated; that is for Apprise to mend.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Inbox(BaseHTTPRequestHandler):
    """Keeps what is posted to /alerts, and refuses everything else."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = self.path.partition("?")[0] == "/alerts"
        if found:
            self.received.append(json.loads(body))
        self.send_response(201 if found else 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def inbox() -> Iterator[Any]:
    handler = type("Handler", (Inbox,), {"received": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield type("Made", (), {"address": f"127.0.0.1:{server.server_port}", "received": handler.received})
        server.shutdown()
        thread.join()


def finding(severity: str, number: int = 0) -> dict[str, Any]:
    return {"severity": severity, "kind": "k", "paths": ["p"], "message": f"{severity} {number}"}


FINDINGS = [finding("info", n) for n in range(12)] + [finding("critical")]


async def test_one_alert_for_each_severity_goes_to_the_inbox(bench: Any, inbox: Any) -> None:
    services = {"inbox": {"url": f"http://{inbox.address}/alerts", "pid": 1}}
    made = await bench.run("send_alerts", findings=FINDINGS, services=services)
    assert made["failed"] == []
    assert [(one["severity"], one["count"]) for one in made["sent"]] == [("critical", 1), ("info", 12)]
    critical, info = inbox.received
    assert critical["title"] == "1 critical finding"
    assert critical["type"] == "failure"
    assert critical["run"] == "r"
    assert critical["idempotency_key"] == "key"
    assert "info 9" in info["message"]
    assert "and 2 more" in info["message"]


async def test_channels_are_used_instead_and_one_that_fails_is_reported(bench: Any, inbox: Any) -> None:
    channels = [f"json://user:hidden@{inbox.address}/nowhere", f"json://{inbox.address}/alerts", "json://127.0.0.1:1/",
                "nonsense", "nosuchschema://token/secret"]  # fmt: skip
    made = await bench.run("send_alerts", findings=[finding("warning")], channels=channels)
    assert len(made["sent"]) == len(inbox.received) == 1
    assert len(made["failed"]) == 4
    reasons = [one["reason"] for one in made["failed"]]
    assert "503" in reasons[0]
    assert all(reasons)
    text = json.dumps(made) + "".join(one.message for one in bench.seen if isinstance(one, Log))
    assert "hidden" not in text
    assert "secret" not in text
    assert sum(isinstance(one, Log) and one.level == "warning" for one in bench.seen) == 4


@pytest.mark.parametrize("services", [None, {}, {"inbox": {}}, {"inbox": {"url": "ftp://x"}}, {"inbox": "x"}])
async def test_without_any_channel_everything_has_failed_with_the_reason(bench: Any, services: Any) -> None:
    made = await bench.run("send_alerts", findings=FINDINGS, services=services)
    assert made["sent"] == []
    assert [one["severity"] for one in made["failed"]] == ["critical", "info"]
    assert "no channel" in made["failed"][0]["reason"]


async def test_no_findings_send_nothing_and_say_so(bench: Any) -> None:
    assert await bench.run("send_alerts", findings=[], channels=["json://127.0.0.1:1/"]) == {"sent": [], "failed": []}
    assert any(isinstance(one, Log) and "no findings" in one.message for one in bench.seen)

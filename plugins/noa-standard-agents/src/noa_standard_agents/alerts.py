"""The agent `notification`: tells people what was found, through Apprise."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import Agent, Context, action
from noa_standard_agents import __version__

if TYPE_CHECKING:
    import apprise

__all__ = ["NotificationAgent"]

_SEVERITIES = ("critical", "warning", "info")
_TYPES = {"critical": "failure", "warning": "warning", "info": "info"}
_ITEMS = 10
_INBOX = "inbox"


class Sent(TypedDict):
    """An alert that reached a channel."""

    severity: str
    channel: str
    count: int


class NotSent(TypedDict):
    """An alert that did not reach a channel, and why."""

    severity: str
    channel: str
    reason: str


class Delivery(TypedDict):
    """Outputs of send_alerts."""

    sent: list[Sent]
    failed: list[NotSent]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert for all findings of a severity."""

    severity: str
    title: str
    body: str
    count: int


class NotificationAgent(Agent):
    """Sends alerts."""

    name = "notification"
    version = __version__

    @action
    def send_alerts(
        self,
        ctx: Context,
        findings: list[dict[str, Any]],
        services: Annotated[dict[str, Any] | None, Field(description="Started services; 'inbox' takes alerts.")] = None,
        channels: Annotated[list[str] | None, Field(description="Apprise URLs; else the service 'inbox'.")] = None,
    ) -> Delivery:
        """Send one alert for each severity to each channel; a channel that fails is reported."""
        result: Delivery = {"sent": [], "failed": []}
        alerts = _alerts(findings)
        if not alerts:
            ctx.info("no findings: there is nothing to send")
            return result
        urls = list(channels) if channels else _inbox(services, ctx)
        if not urls:
            reason = "no channel is given and there is no service 'inbox' with a url"
            ctx.warning(f"alerts were not sent: {reason}")
            result["failed"] = [{"severity": one.severity, "channel": "", "reason": reason} for one in alerts]
            return result
        steps = [(alert, url) for alert in alerts for url in urls]
        for done, (alert, url) in enumerate(steps, 1):
            ctx.check_cancelled()
            _deliver(ctx, alert, url, result)
            ctx.progress(done=done, total=len(steps), unit="alerts")
        return result


def _alerts(findings: Sequence[Mapping[str, Any]]) -> list[Alert]:
    alerts = []
    for severity in _SEVERITIES:
        found = [one for one in findings if one.get("severity") == severity]
        if not found:
            continue
        lines = [f"- {one.get('message', '')}" for one in found[:_ITEMS]]
        if len(found) > _ITEMS:
            lines.append(f"and {len(found) - _ITEMS} more")
        noun = "finding" if len(found) == 1 else "findings"
        alerts.append(Alert(severity, f"{len(found)} {severity} {noun}", "\n".join(lines), len(found)))
    return alerts


def _inbox(services: Mapping[str, Any] | None, ctx: Context) -> list[str]:
    """The inbox as an Apprise URL; what is posted says which run and task it came from, so that repeats can be seen."""
    service = (services or {}).get(_INBOX)
    url = service.get("url") if isinstance(service, Mapping) else None
    if not isinstance(url, str) or not url:
        return []
    parts = urlsplit(url)
    scheme = {"http": "json", "https": "jsons"}.get(parts.scheme)
    if scheme is None:
        return []
    marks = urlencode({":run": ctx.run_id, ":idempotency_key": ctx.idempotency_key}, quote_via=quote)
    return [f"{scheme}://{parts.netloc}{parts.path}?{marks}"]


def _deliver(ctx: Context, alert: Alert, url: str, result: Delivery) -> None:
    import apprise

    # Apprise says why a channel failed only in its log. What it says of a URL that it cannot use repeats that URL,
    # tokens and all, and is left out.
    with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as captured:  # type: ignore[no-untyped-call]
        channel, ok = _notify(alert, url)
        reason = captured.getvalue().strip() if ok is not None else "the URL is not one that Apprise can use"
    if ok:
        result["sent"].append({"severity": alert.severity, "channel": channel, "count": alert.count})
        return
    reason = reason.replace("\n", "; ") or "the channel did not take it"
    ctx.warning(f"{alert.severity} alert was not sent to {channel}: {reason}")
    result["failed"].append({"severity": alert.severity, "channel": channel, "reason": reason})


def _notify(alert: Alert, url: str) -> tuple[str, bool | None]:
    """The channel as it may be shown, and whether it took the alert; None where the URL cannot be used."""
    import apprise

    server: apprise.NotifyBase | None = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if server is None:
        return f"{url.partition('://')[0]}://…" if "://" in url else "(not a URL)", None
    masked: str = server.url(privacy=True)  # type: ignore[no-untyped-call]
    channel = masked.partition("?")[0]
    kind = apprise.NotifyType(_TYPES[alert.severity])
    return channel, bool(server.notify(body=alert.body, title=alert.title, notify_type=kind))

"""What the environment of a sidecar must say."""

from __future__ import annotations

import pytest

from noa.sdk.launch import Launch, LaunchError

GIVEN = {"NOA_AGENT_LISTEN": "unix:/a/b.sock", "NOA_AGENT_TOKEN": "secret", "NOA_AGENT_PROTOCOL": "1"}


def test_everything_that_the_contract_asks_for_is_enough() -> None:
    assert Launch.from_environment(GIVEN) == Launch("unix:/a/b.sock", "secret")


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("value", [None, ""])
def test_no_variable_has_a_default(name: str, value: str | None) -> None:
    given = {key: text for key, text in (GIVEN | {name: value}).items() if text is not None}
    with pytest.raises(LaunchError, match=name):
        Launch.from_environment(given)


@pytest.mark.parametrize("version", ["0", "2", "1.0", " 1", "one"])
def test_another_version_names_both_also_where_the_rest_is_missing(version: str) -> None:
    with pytest.raises(LaunchError, match=f"'{version}'.* version 1 "):
        Launch.from_environment({"NOA_AGENT_PROTOCOL": version})

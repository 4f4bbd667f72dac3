"""What a parcel costs, and what the plugin declares."""

import pytest
from noa_rates.agent import RatesAgent, cents_for
from noa_rates.plugin import noa_agents

from noa.sdk import ActionFailed


@pytest.mark.parametrize(("country", "grams", "cents"), [("DE", 1, 452), ("DE", 100, 452), ("US", 250, 1927)])
def test_parcel_costs_its_rate_and_each_begun_hundred_grams(country: str, grams: int, cents: int) -> None:
    assert cents_for(country, grams) == cents


def test_country_to_which_no_carrier_goes_is_refused_by_name() -> None:
    with pytest.raises(ActionFailed, match="no carrier goes to 'AQ'"):
        RatesAgent().quote("AQ", 100)


def test_plugin_declares_the_agent() -> None:
    assert [agent.name for agent in noa_agents()] == ["rates"]

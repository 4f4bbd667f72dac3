"""One package of each template for all tests that look at it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.templates.packages import EVERY, Package, make_package


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Package]:
    """The package of a template, made when the first test asks for it."""
    made: dict[str, Package] = {}

    def package_of(template: str) -> Package:
        if template not in made:
            made[template] = make_package(EVERY[template], tmp_path_factory.mktemp(template))
        return made[template]

    return package_of


@pytest.fixture
def package(template: str, packages: Callable[[str], Package]) -> Package:
    """The package of the test's parameter `template`."""
    return packages(template)

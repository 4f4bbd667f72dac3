"""What a line of a definition, or a name that a person types, means to the debuggers."""

from pathlib import Path

import pytest

from noa.definitions import load_plan
from noa.errors import UsageError
from noa.model.plan import Plan
from noa.modes.places import at_line, named
from noa.plugin import Registry

TEXT = """\
workflow:
  name: w
  stages:
    - name: one
      type: sequential
      tasks:
        # the first
        - name: x
          agent: python

          action: data_preprocessing
          inputs:
            path: "."

        # the second
        - {name: y, agent: python, action: data_preprocessing}
        - {name: z, agent: python, action: data_preprocessing}
    - name: two
      type: parallel
      tasks:
        [{name: x, agent: python, action: data_preprocessing}, {name: v, agent: python, action: data_preprocessing}]
# the end
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path: Path = tmp_path_factory.mktemp("places") / "w.yaml"
    path.write_text(TEXT)
    return load_plan(path, registry=Registry.load())


@pytest.mark.parametrize(
    ("line", "name"),
    [(1, "one/x"), (7, "one/x"), (8, "one/x"), (9, "one/x"), (11, "one/x"), (13, "one/x"), (14, "one/y"),
     (15, "one/y"), (16, "one/y"), (17, "one/z"), (18, "two/x"), (20, "two/x"), (21, "two/x"), (22, None), (99, None)],
)  # fmt: skip
def test_line_is_of_the_task_around_it_or_the_next_one(plan: Plan, line: int, name: str | None) -> None:
    found = at_line(plan, line)
    assert (found.name if found is not None else None) == name


@pytest.mark.parametrize(
    ("text", "place"),
    [("one.x", "one/x"), ("one/x", "one/x"), ("two", "two"), ("y", "one/y"), ("17", "one/z"), ("w.yaml:9", "one/x"),
     ("one/*", "one/*")],
)  # fmt: skip
def test_names_lines_and_patterns_are_places(plan: Plan, text: str, place: str) -> None:
    assert named(plan, text) == place


@pytest.mark.parametrize(
    ("text", "why"), [("x", "one/x or two/x"), ("one.yy", "Did you mean 'one/y'"), ("99", "no task at line 99")]
)
def test_what_is_no_place_is_explained(plan: Plan, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        named(plan, text)

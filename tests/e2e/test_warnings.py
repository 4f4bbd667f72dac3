"""What is suspicious in a definition is said, and does not stop a run."""

from pathlib import Path

from tests.e2e.conftest import Noa

DEFINITION = """
workflow:
  name: clash
  stages:
    - name: first
      type: parallel
      tasks:
        - {name: one, agent: worker, action: post_processing}
        - {name: two, agent: worker, action: post_processing}
    - name: last
      type: sequential
      depends_on: [first]
      tasks:
        - {agent: storage, action: persist_results}
"""


def test_field_that_two_tasks_give_is_named_by_validate_and_by_run(noa: Noa, tmp_path: Path) -> None:
    (tmp_path / "clash.yaml").write_text(DEFINITION)
    checked = noa("validate", tmp_path / "clash.yaml")
    assert checked.returncode == 0, checked.stderr
    ran = noa("run", tmp_path / "clash.yaml")
    for said in (checked.stdout + checked.stderr, ran.stderr):
        assert "report" in said
        assert "first.one" in said
        assert "first.two" in said

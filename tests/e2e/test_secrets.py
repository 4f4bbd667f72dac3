"""A secret reaches the agents it is meant for and nothing else: everything that a run leaves behind is searched."""

import base64
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import Noa

SECRET = 'hunter2-"äö"-correct horse'
FORMS = [
    SECRET,
    SECRET.replace('"', '\\"'),
    'hunter2-\\"\\u00e4\\u00f6\\"-correct horse',
    base64.b64encode(SECRET.encode()).decode(),
]

AGENT = '''
import base64, os, sys
from noa.sdk import ActionFailed, Agent, Context, action

class Leaky(Agent):
    """Gives away what it is told."""

    name = "leaky"
    version = "1"

    @action()
    def tell(self, context: Context, key: str, header: str = "", how: str = "", size: int = 0) -> dict:
        """Tell everyone."""
        assert key.startswith("hunter2") and len(key) == 26, "the secret itself arrives"
        assert not header or header == f"Bearer {key}", "also inside text"
        if os.environ.get("PASSED_ON"):
            assert os.environ["PASSED_ON"] == f"key={key}", "and by the environment"
            print("on stdout", key, flush=True)
            print("on stderr", key, file=sys.stderr, flush=True)
        context.log(f"in a log {key}")
        context.progress(0.5, message=f"in progress {key}")
        context.output(f"in a chunk {key}")
        if how == "fail":
            raise ActionFailed("LEAK", f"in a failure {key}", details={"key": key, key: 1})
        if how == "raise":
            raise RuntimeError(f"in an exception {key}")
        encoded = base64.b64encode(key.encode()).decode()
        return {"key": key, "nested": {"list": [header, encoded]}, "large": (key + " ") * size}
'''

PLUGIN = """
from noa.plugin import AgentDeclaration, hookimpl
from leaky import Leaky

@hookimpl
def noa_agents():
    return [AgentDeclaration(name="inside", factory=Leaky)]
"""

WORKFLOW = """
workflow:
  name: secretive
  agents:
    outside:
      command: [{python}, -m, noa.sdk, "leaky:Leaky"]
      env: {{PYTHONPATH: {folder}, PASSED_ON: "key=${{{{ secrets.API_KEY }}}}"}}
  outputs: {{given: "${{{{ stages.s.first.outputs.key }}}}"}}
  stages:
    - name: s
      type: parallel
      fail_fast: false
      tasks:
        - {{name: first, agent: {agent}, action: tell, inputs: {{key: "${{{{ secrets.API_KEY }}}}",
            header: "Bearer ${{{{ secrets.API_KEY }}}}", size: {size}}}}}
        - {{name: failing, agent: {agent}, action: tell, inputs: {{key: "${{{{ secrets.API_KEY }}}}", how: fail}}}}
        - {{name: raising, agent: {agent}, action: tell, inputs: {{key: "${{{{ secrets.API_KEY }}}}", how: raise}}}}
    - name: t
      type: sequential
      depends_on: [s]
      run_on: always
      tasks:
        - {{name: wired, agent: {agent}, action: tell, inputs: {{key: "${{{{ secrets.API_KEY }}}}",
            how: "${{{{ stages.s.first.status }}}}"}}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "leaky.py").write_text(AGENT)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    for agent in ("inside", "outside"):
        # A sidecar writes outputs above 256 KiB itself, as any file; the engine keeps those of its own agents.
        size = 20_000 if agent == "inside" else 2_000
        text = WORKFLOW.format(python=sys.executable, folder=tmp_path, agent=agent, size=size)
        (tmp_path / f"{agent}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("agent", ["inside", "outside"])
def test_a_secret_is_found_nowhere_after_a_run(noa: Noa, folder: Path, agent: str) -> None:
    noa.env |= {"NOA_SECRET_API_KEY": SECRET, "PYTHONPATH": str(folder)}
    plugin = ("--plugin", folder / "plugin.py")
    said = [noa("run", folder / f"{agent}.yaml", *plugin), noa("run", folder / f"{agent}.yaml", "--json", *plugin)]
    assert [done.returncode for done in said] == [1, 1], said[0].stderr
    for command in ("show", "events", "logs", "why"):
        given = plugin if command in ("show", "why") else ()
        for options in ([], ["--json"]):
            said.append(noa(command, "latest", *given, *options))
            assert said[-1].returncode == 0, said[-1].stderr
    stages = noa.json("show", "latest", *plugin)["stages"]
    assert {t["path"]: t["status"] for s in stages for t in s["tasks"]} == {
        "s/first": "succeeded", "s/failing": "failed", "s/raising": "failed", "t/wired": "succeeded",
    }  # fmt: skip
    for done in said:
        for form in FORMS:
            assert form not in done.stdout, done.args
            assert form not in done.stderr, done.args
    assert any("in a log ***" in done.stdout for done in said)
    assert any("LEAK" in done.stdout and "in a failure ***" in done.stdout for done in said)
    searched = 0
    for path in [p for p in noa.home.rglob("*") if p.is_file()]:
        data = path.read_bytes()
        searched += len(data)
        for form in FORMS:
            assert form.encode() not in data, path
    assert searched > 100_000
    assert "${{ secrets.API_KEY }}" in str(noa.events("task_scheduled")), "a mark stands for it"


def test_a_run_without_its_secret_is_refused_before_it_begins(noa: Noa, folder: Path) -> None:
    done = noa("run", folder / "outside.yaml")
    assert done.returncode == 2
    assert "secret 'API_KEY' is not set: set the environment variable NOA_SECRET_API_KEY" in done.stderr
    assert noa.events() == []
    (folder / "secrets").mkdir()
    (folder / "secrets" / "API_KEY").write_text(SECRET + "\n")
    noa.env |= {"NOA_SECRETS_DIR": str(folder / "secrets")}
    assert noa("run", folder / "outside.yaml").returncode == 1


def test_inputs_with_a_secret_are_never_written_as_an_artifact(noa: Noa, folder: Path) -> None:
    noa.env |= {"NOA_SECRET_API_KEY": SECRET}
    (folder / "large.yaml").write_text(
        f"""
workflow:
  name: large
  agents:
    outside: {{command: [{sys.executable}, -m, noa.sdk, "leaky:Leaky"], env: {{PYTHONPATH: {folder}}}}}
  stages:
    - name: s
      type: parallel
      tasks:
        - {{agent: outside, action: tell, inputs: {{key: "${{{{ secrets.API_KEY }}}}", how: {"x" * 300_000}}}}}
"""
    )
    shown = noa.json("run", folder / "large.yaml")
    assert "above 262,144 bytes they would be written" in str(shown["failure"])
    assert not [p for p in noa.home.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]

"""Every hook is documented and works: each is filled by a real one-file plugin, and what it gives is used."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import noa
from noa.errors import PluginError
from noa.model.events import HoldResolved, TaskHeld
from noa.plugin import AgentDeclaration, Registry, hookimpl, hookspecs

ROOT = Path(__file__).resolve().parents[2]
HOOKS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("noa_")}

ECHO_AGENT = """
    from noa.plugin import AgentDeclaration, hookimpl
    from noa.sdk import Agent, action


    class Parrot(Agent):
        name = "parrot"

        @action(idempotent=True)
        async def say(self, words: str = "hello") -> dict:
            return {"said": words}
"""

ONE_TASK: dict[str, Any] = {
    "workflow": {
        "name": "one-task",
        "stages": [
            {
                "name": "only",
                "type": "sequential",
                "tasks": [{"agent": "parrot", "action": "say", "inputs": {"words": "${{ inputs.words }}"}}],
            }
        ],
    }
}


def plugin_file(folder: Path, text: str, name: str = "mine") -> str:
    """A single-file plugin with this text."""
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


def parrots(folder: Path) -> str:
    """A plugin with the agent `parrot`."""
    text = f"""{textwrap.dedent(ECHO_AGENT)}

@hookimpl
def noa_agents():
    return [AgentDeclaration(name="parrot", factory=Parrot)]
"""
    return plugin_file(folder, text, "parrots")


# --- all hooks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_when_it_is_called_and_what_it_gives(name: str) -> None:
    assert len((inspect.getdoc(HOOKS[name]) or "").split()) >= 4


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_section_in_the_docs_with_its_exact_arguments(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    arguments = ", ".join(f"{p.name}: {p.annotation}" for p in signature.parameters.values())
    heading = f"## `{name}({arguments}) -> {signature.return_annotation}`"
    assert heading in (ROOT / "docs/plugins.md").read_text(encoding="utf-8").splitlines(), f"expected: {heading}"


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_test_of_its_own(name: str) -> None:
    assert callable(globals().get(f"test_hook_{name}"))


def test_the_docs_have_no_section_for_a_hook_that_does_not_exist() -> None:
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `(noa_\w+)\(", text, re.MULTILINE)) == set(HOOKS)


# --- each hook ---------------------------------------------------------------------------------------------------


async def test_hook_noa_agents(tmp_path: Path) -> None:
    registry = Registry.load([parrots(tmp_path)])
    assert registry.agents["parrot"].plugin == "parrots"
    result = await noa.run(ONE_TASK, {"words": "good morning"}, registry=registry, home=tmp_path / "home")
    assert result.succeeded
    assert result.task_outputs("only/say") == {"said": "good morning"}


async def test_hook_noa_agent_kinds(tmp_path: Path) -> None:
    text = f"""{textwrap.dedent(ECHO_AGENT)}
from noa.orchestration.kinds import InProcessKind


class Upstairs(InProcessKind):
    name = "upstairs"


@hookimpl
def noa_agent_kinds():
    return [Upstairs]


@hookimpl
def noa_agents():
    return [AgentDeclaration(name="parrot", kind="upstairs", factory=Parrot)]
"""
    registry = Registry.load([plugin_file(tmp_path, text)])
    assert {"in-process", "remote", "sidecar", "upstairs"} <= set(registry.agent_kinds)
    result = await noa.run(ONE_TASK, {"words": "from above"}, registry=registry, home=tmp_path / "home")
    assert result.task_outputs("only/say") == {"said": "from above"}


async def test_hook_noa_stage_types(tmp_path: Path) -> None:
    text = """
        from typing import ClassVar

        from pydantic import BaseModel, ConfigDict, Field

        from noa.definitions import TaskList
        from noa.plugin import Block, Opening, StageType, TemplateSpec, hookimpl


        class TwiceOptions(BaseModel):
            model_config = ConfigDict(extra="forbid")

            tasks: TaskList = Field(description="Done two times.")


        class Twice(StageType):
            name: ClassVar[str] = "twice"
            options: ClassVar[type[BaseModel]] = TwiceOptions
            single: ClassVar[bool] = False

            def templates(self, options):
                return [TemplateSpec("main", options.tasks, chained=True)]

            def start(self, stage):
                return Opening([Block("main", "1")])

            def block_finished(self, stage, block):
                return Opening([Block("main", "2")] if block.key == "1" else [])


        @hookimpl
        def noa_stage_types():
            return [Twice]
    """
    registry = Registry.load([parrots(tmp_path), plugin_file(tmp_path, text)])
    stage = {"name": "again", "type": "twice", "tasks": [{"agent": "parrot", "action": "say"}]}
    workflow = {"workflow": {"name": "w", "stages": [stage]}}
    result = await noa.run(workflow, registry=registry, home=tmp_path / "home")
    assert result.succeeded
    assert list(result.tasks) == ["again[1]/say", "again[2]/say"]


async def test_hook_noa_recovery_strategies(tmp_path: Path) -> None:
    text = """
        from pydantic import BaseModel

        from noa.plugin import AgentDeclaration, Complete, RecoveryStrategy, hookimpl
        from noa.sdk import ActionFailed, Agent, action


        class ShrugOptions(BaseModel):
            saying: str = "never mind"


        class Shrug(RecoveryStrategy):
            name = "shrug"
            options = ShrugOptions

            def recover(self, failure, past, options):
                return Complete({"said": options.saying, "why": failure.code})


        class Mute(Agent):
            name = "mute"

            @action
            async def say(self) -> dict:
                raise ActionFailed("NO_VOICE", "this agent never speaks")


        @hookimpl
        def noa_recovery_strategies():
            return [Shrug]


        @hookimpl
        def noa_agents():
            return [AgentDeclaration(name="mute", factory=Mute)]
    """
    registry = Registry.load([plugin_file(tmp_path, text)])
    task = {"agent": "mute", "action": "say", "recovery": [{"shrug": {"saying": "so be it"}}]}
    workflow = {"workflow": {"name": "w", "stages": [{"name": "s", "type": "sequential", "tasks": [task]}]}}
    result = await noa.run(workflow, registry=registry, home=tmp_path / "home")
    assert (result.status, result.degraded) == ("succeeded", True)
    assert result.task_outputs("s/say") == {"said": "so be it", "why": "NO_VOICE"}


async def test_hook_noa_modes(tmp_path: Path) -> None:
    text = """
        from noa.plugin import Hold, Mode, hookimpl


        class Witness(Mode):
            name = "witness"
            description = "Everything is held for a moment, so that the log shows it."
            watches = True

            def gate(self, gate):
                return Hold(question=f"{gate.agent} may {gate.action}?", choices=["approve"], kind="policy")

            def resolves(self, hold):
                return "approve"


        @hookimpl
        def noa_modes():
            return [Witness]
    """
    registry = Registry.load([plugin_file(tmp_path, text)])
    assert list(registry.modes) == ["auto", "debug", "supervised", "witness"]
    told: list[str] = []

    def told_of(_run: object, _seq: int, event: object) -> None:
        if isinstance(event, TaskHeld | HoldResolved):
            told.append(event.hold.question if isinstance(event, TaskHeld) else event.by)

    async with noa.Runtime(registry=registry, home=tmp_path / "home", on_event=told_of) as runtime:
        task = {"agent": "python", "action": "data_preprocessing", "inputs": {"path": str(tmp_path)}}
        workflow = {"name": "w", "mode": "witness", "stages": [{"name": "s", "type": "sequential", "tasks": [task]}]}
        assert (await runtime.run({"workflow": workflow})).succeeded
    assert told == ["python may data_preprocessing?", "nobody: mode witness"]


async def test_hook_noa_journals(tmp_path: Path) -> None:
    text = """
        from noa.plugin import hookimpl
        from noa.storage import SqliteJournal


        class Ledger(SqliteJournal):
            def __init__(self, url):
                super().__init__("sqlite" + url.removeprefix("ledger"))


        @hookimpl
        def noa_journals():
            return {"ledger": Ledger}
    """
    registry = Registry.load([parrots(tmp_path), plugin_file(tmp_path, text)])
    result = await noa.run(
        ONE_TASK, {"words": "kept"}, registry=registry, home=tmp_path / "home", journal=f"ledger://{tmp_path}/books.db"
    )
    assert result.succeeded
    assert (tmp_path / "books.db").is_file()
    assert not (tmp_path / "home/noa.db").exists()


async def test_hook_noa_artifact_stores(tmp_path: Path) -> None:
    text = """
        from noa.plugin import AgentDeclaration, hookimpl
        from noa.sdk import Agent, action
        from noa.storage import FileArtifactStore


        class Cellar(FileArtifactStore):
            def __init__(self, url):
                super().__init__("file" + url.removeprefix("cellar"))


        class Author(Agent):
            name = "author"

            @action
            async def write(self) -> dict:
                return {"novel": "call me " * 100_000}


        @hookimpl
        def noa_artifact_stores():
            return {"cellar": Cellar}


        @hookimpl
        def noa_agents():
            return [AgentDeclaration(name="author", factory=Author)]
    """
    registry = Registry.load([plugin_file(tmp_path, text)])
    task = {"agent": "author", "action": "write"}
    workflow = {"workflow": {"name": "w", "stages": [{"name": "s", "type": "sequential", "tasks": [task]}]}}
    result = await noa.run(workflow, registry=registry, home=tmp_path / "home", artifacts=f"cellar://{tmp_path}/cellar")
    outputs = result.task_outputs("s/write")
    assert outputs is not None
    assert outputs["novel"]["$artifact"]["uri"].startswith(f"file://{tmp_path}/cellar/")
    assert [path for path in (tmp_path / "cellar").rglob("*") if path.is_file()]


async def test_hook_noa_alert_channels(tmp_path: Path) -> None:
    text = """
        from pathlib import Path

        from noa.plugin import AlertChannel, hookimpl


        class Notebook(AlertChannel):
            name = "notebook"

            async def send(self, url, *, title, body, severity):
                with Path(url.removeprefix("notebook://")).open("a") as book:
                    book.write(f"{severity}: {title}: {body}\\n")


        @hookimpl
        def noa_alert_channels():
            return [Notebook]
    """
    registry = Registry.load([plugin_file(tmp_path, text)])
    channel = registry.alert_channels["notebook"]
    await channel.send(f"notebook://{tmp_path}/book.txt", title="disk", body="is full", severity="critical")
    assert (tmp_path / "book.txt").read_text(encoding="utf-8") == "critical: disk: is full\n"


async def test_hook_noa_event(tmp_path: Path) -> None:
    text = """
        from noa.plugin import hookimpl

        seen = []


        @hookimpl
        def noa_event(run_id, seq, event):
            seen.append((run_id, seq, type(event).__name__))
            raise RuntimeError("an observer must not be able to disturb a run")
    """
    registry = Registry.load([parrots(tmp_path), plugin_file(tmp_path, text)])
    result = await noa.run(ONE_TASK, {"words": "x"}, registry=registry, home=tmp_path / "home")
    assert result.succeeded
    [(name, observe)] = [item for item in registry.observers if item[0] == "mine"]
    seen = inspect.unwrap(observe).__globals__["seen"]
    assert name == "mine"
    assert [seq for _, seq, _ in seen] == list(range(1, len(seen) + 1))
    assert {run for run, _, _ in seen} == {result.run_id}
    assert (seen[0][2], seen[-1][2]) == ("RunCreated", "RunFinished")


def test_hook_noa_commands(tmp_path: Path) -> None:
    text = '''
        import click

        from noa.plugin import hookimpl


        @click.command()
        @click.argument("name")
        def greet(name):
            """Greet somebody."""
            click.echo(f"Good day, {name}.")


        @hookimpl
        def noa_commands():
            return [greet]
    '''
    [command] = Registry.load([plugin_file(tmp_path, text)]).commands
    done = CliRunner().invoke(command, ["Ada"])
    assert (done.exit_code, done.output) == (0, "Good day, Ada.\n")


# --- the registry --------------------------------------------------------------------------------------------------


def test_a_name_that_two_plugins_give_is_refused_and_both_are_named(tmp_path: Path) -> None:
    registry = Registry.load([parrots(tmp_path)], disabled=())

    class Other:
        @hookimpl
        def noa_agents(self) -> list[AgentDeclaration]:
            return [AgentDeclaration(name="parrot", command=("parrot",))]

    registry.register(Other(), "other")
    with pytest.raises(PluginError, match=r"agent 'parrot' is given twice: by plugin 'other' and by plugin 'parrots'"):
        registry.agents  # noqa: B018 - asking for it is the test


def test_a_hook_with_an_argument_that_does_not_exist_is_refused_with_the_plugin_named(tmp_path: Path) -> None:
    text = "from noa.plugin import hookimpl\n\n@hookimpl\ndef noa_event(run_id, colour):\n    pass\n"
    with pytest.raises(PluginError, match=r"(?s)plugin 'mine'.*colour") as caught:
        Registry.load([plugin_file(tmp_path, text)])
    assert caught.value.plugin == "mine"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("@hookimpl\ndef noa_modes():\n    return [3]", "expected a named Mode"),
        ("@hookimpl\ndef noa_modes():\n    return 1 / 0", "noa_modes raised ZeroDivisionError"),
        ("@hookimpl\ndef noa_journals():\n    return {'x': 3}", "must give classes of Journal"),
    ],
    ids=["import fails", "wrong thing", "hook raises", "no class"],
)
def test_a_broken_plugin_is_named_with_what_is_wrong(tmp_path: Path, body: str, message: str) -> None:
    file = plugin_file(tmp_path, f"from noa.plugin import hookimpl\n\n{body}\n")
    with pytest.raises(PluginError, match=message) as caught:
        everything(file)
    assert caught.value.plugin == "mine"


def everything(file: str) -> None:
    """Load a plugin beside the built-in one and ask for what it gives."""
    registry = Registry.load([file])
    assert registry.modes
    assert registry.journals


def test_a_plugin_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"nowhere\.py does not exist"):
        Registry.load([tmp_path / "nowhere.py"])

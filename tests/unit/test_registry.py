"""What plugins give that they must not: one clear error that names the plugin, never a traceback."""

import logging
from pathlib import Path

import pytest

from noa.errors import PluginError
from noa.model.events import TimerFired
from noa.model.ids import RunId
from noa.monitoring.observers import PluginObservers
from noa.plugin import Registry

HEAD = "from noa.plugin import hookimpl\n\n@hookimpl\n"


def load(folder: Path, text: str) -> Registry:
    (folder / "odd.py").write_text(text)
    return Registry.load([folder / "odd.py"])


@pytest.mark.parametrize(
    ("text", "attribute", "said"),
    [
        ("def noa_agents():\n    return [42]\n", "agents", "AgentDeclaration"),
        ("def noa_agents():\n    return 42\n", "agents", "expected a list"),
        ("def noa_agents():\n    return None\n", "agents", "expected a list"),
        ("def noa_journals():\n    return [42]\n", "journals", "by URL scheme"),
        ("def noa_journals():\n    return {'x': 42}\n", "journals", "Journal"),
        ("def noa_modes():\n    raise ValueError('no')\n", "modes", "ValueError: no"),
        ("def noa_modes():\n    raise SystemExit(3)\n", "modes", "SystemExit"),
    ],
)
def test_wrong_answer_of_a_hook_names_the_plugin(tmp_path: Path, text: str, attribute: str, said: str) -> None:
    registry = load(tmp_path, HEAD + text)
    with pytest.raises(PluginError, match="plugin 'odd'") as caught:
        getattr(registry, attribute)
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["raise SystemExit(3)\n", "1 / 0\n", "import nothing_of_this_name\n", "def (\n"])
def test_file_that_cannot_be_imported_names_itself(tmp_path: Path, text: str) -> None:
    with pytest.raises(PluginError, match=r"odd\.py cannot be imported"):
        load(tmp_path, text)


def test_event_hook_gets_the_arguments_that_it_names(tmp_path: Path) -> None:
    body = "def noa_event(event, run_id):\n    with open(run_id, 'a') as seen:\n        seen.write(event.timer)\n"
    registry = load(tmp_path, HEAD + body)
    observers = PluginObservers(registry.observers)
    observers(RunId(str(tmp_path / "seen")), 7, TimerFired(at_ms=1, timer="tick"))
    observers.close()
    assert (tmp_path / "seen").read_text() == "tick"


def test_event_hook_that_raises_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = load(tmp_path, HEAD + "def noa_event(event):\n    raise ValueError('always')\n")
    observers = PluginObservers(registry.observers)
    with caplog.at_level(logging.WARNING, "noa.monitoring"):
        for seq in range(20):
            observers(RunId("r"), seq, TimerFired(at_ms=1, timer="tick"))
        observers.close()
    assert [record.getMessage() for record in caplog.records] == [
        "plugin 'odd': noa_event raised ValueError: always (said once)"
    ]


def test_observer_that_lags_at_the_end_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "import threading\nfrom noa.plugin import hookimpl\ngate = threading.Event()\n\n@hookimpl\n"
    registry = load(tmp_path, text + "def noa_event(event):\n    gate.wait(30)\n")
    observers = PluginObservers(registry.observers)
    with caplog.at_level(logging.WARNING, "noa.monitoring"):
        for seq in range(5):
            observers(RunId("r"), seq, TimerFired(at_ms=1, timer="tick"))
        observers.close(timeout_s=0.05)
    assert "has not seen the last" in caplog.text

"""From a file, a text or a dict to a plan. Sub-workflows are found here, on disk or among pinned texts."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noa.definitions.compensation import rollback_warnings
from noa.definitions.compile import compile_plan
from noa.definitions.drafts import read_stages, read_workflow
from noa.definitions.json_source import parse_json
from noa.definitions.problems import place
from noa.definitions.source import MAX_DEPTH, NodePath, Source, decode_text, read_text
from noa.definitions.wiring import wiring_warnings
from noa.definitions.yaml_source import parse_yaml
from noa.errors import DefinitionError, Problem, UsageError
from noa.model.plan import Plan
from noa.plugin.registry import Registry

__all__ = ["DICT_NAME", "load_plan", "parse_plan", "pinned_texts"]

DICT_NAME = "<dict>"
"""Name of a definition that was given as a dict; its text is JSON."""


def load_plan(
    source: str | Path | Mapping[str, Any],
    *,
    registry: Registry,
    host_resources: Mapping[str, float] | None = None,
    warnings: list[Problem] | None = None,
) -> Plan:
    """Read, check and compile a definition.

    Args:
        source: Path of a YAML or JSON file, or the definition itself as a dict.
        registry: Stage types, recovery strategies and agents that it may name.
        host_resources: Capacity of `cpu` (cores), `memory` (bytes) and `gpu`; None leaves demands unchecked.
        warnings: Is given what does not stop a run.

    Raises:
        UsageError: There is no such file, or the dict is not JSON.
        DefinitionError: It has mistakes; all of them are in it.
    """
    if isinstance(source, Mapping):
        text, data = _dict_text(source)
        loader = _Loader(registry, host_resources, base=Path(), given=data)
        return loader.root(decode_text(text.encode(), DICT_NAME), DICT_NAME, warnings)
    path = Path(source)
    text = read_text(path, shown=str(source))
    loader = _Loader(registry, host_resources, base=path.parent, chain=[_identity(path)])
    return loader.root(text, str(source), warnings)


def parse_plan(
    text: str,
    name: str,
    *,
    registry: Registry,
    base: Path | None = None,
    host_resources: Mapping[str, float] | None = None,
    warnings: list[Problem] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Plan:
    """Check and compile the text of a definition.

    Args:
        text: YAML, or JSON where the name ends with `.json` or is that of a dict.
        name: File that it came from; stands before each problem.
        base: Folder from which sub-workflows are found.
        texts: Texts of sub-workflows as `pinned_texts` gives them; with them nothing is read from disk.

    Raises:
        DefinitionError: It has mistakes; all of them are in it.
    """
    loader = _Loader(registry, host_resources, base=base, texts=texts)
    return loader.root(decode_text(text.encode("utf-8", "surrogatepass"), name), name, warnings)


def pinned_texts(plan: Plan) -> dict[str, str]:
    """Every text that a plan was made from: its own under "", those of sub-workflows by their path from it."""
    found = {"": plan.source}
    for key, child in plan.children.items():
        for name, text in pinned_texts(child).items():
            found[_joined(posixpath.dirname(key), name) if name else key] = text
    return found


def _dict_text(source: Mapping[str, Any]) -> tuple[str, Any]:
    try:
        text = json.dumps(source, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair cannot be stored
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the definition given as a dict is not JSON: {error}") from error
    return text, json.loads(text)


def _identity(path: Path) -> str:
    return str(path.resolve())


def _joined(prefix: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(prefix, name))


@dataclass(slots=True)
class _Loader:
    """Loads one definition and everything below it. `chain` has the files that are being loaded, outermost first."""

    registry: Registry
    host_resources: Mapping[str, float] | None
    base: Path | None = None
    texts: Mapping[str, str] | None = None
    given: Any = None
    warns: bool = False
    chain: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    loaded: dict[str, Plan | None] = field(default_factory=dict)

    def root(self, text: str, name: str, warnings: list[Problem] | None) -> Plan:
        self.warns = warnings is not None  # looking for them takes a quarter of the time
        plan = self._load(text, name, prefix="", root=True)
        unique = list(dict.fromkeys(self.problems))
        unique.sort(key=lambda p: (p.file != name, p.file, p.line, p.column))
        errors = [p for p in unique if p.severity == "error"]
        if errors or plan is None:
            raise DefinitionError.of(errors)
        if warnings is not None:
            warnings.extend(p for p in unique if p.severity != "error")
        return plan

    def _load(self, text: str, name: str, *, prefix: str, root: bool = False) -> Plan | None:
        try:
            source = self._parse(text, name)
        except DefinitionError as error:
            self.problems += error.problems
            return None
        found: list[Problem] = source.problems
        workflow = read_workflow(source, found)
        if workflow is None:
            self.problems += found
            return None
        drafts = read_stages(source, self.registry.stage_types, found)

        def child(path: str, at: NodePath) -> tuple[str, Plan | None]:
            return self._child(path, at, source, prefix)

        compiled = compile_plan(
            source,
            workflow,
            drafts,
            registry=self.registry,
            host_resources=self.host_resources,
            children=child,
            problems=found,
        )
        # A sub-workflow with mistakes has no plan, and then nothing can be said of what it is given.
        if self.warns and not any(p.severity == "error" for p in (*found, *self.problems)):
            found += wiring_warnings(source, compiled)
            strategies = self.registry.recovery_strategies
            found += rollback_warnings(source, compiled.plan, compiled.paths, strategies, root=root)
        self.problems += found
        return None if any(p.severity == "error" for p in found) else compiled.plan

    def _parse(self, text: str, name: str) -> Source:
        if name == DICT_NAME and self.given is not None:
            _check_values(self.given, name)
            return Source(name, text, self.given)
        if name == DICT_NAME or name.endswith(".json"):
            return parse_json(text, name)
        return parse_yaml(text, name)

    def _child(self, path: str, at: NodePath, source: Source, prefix: str) -> tuple[str, Plan | None]:
        """The key of a sub-workflow in its parent's plan, and its plan."""
        key = posixpath.normpath(path)
        full = _joined(prefix, path)
        file = None if self.base is None else self.base / full
        identity = _identity(file) if file is not None and self.texts is None else full
        if identity in self.chain:
            ring = " → ".join([*(Path(c).name for c in self.chain[self.chain.index(identity) :]), Path(identity).name])
            self._refuse(source, at, "RECURSION", f"workflow '{path}' would run itself: {ring}")
            return key, None
        if identity not in self.loaded:
            self.loaded[identity] = None
            text = self._child_text(path, full, file, at, source)
            if text is not None:
                self.chain.append(identity)
                self.loaded[identity] = self._load(text, str(file or full), prefix=posixpath.dirname(full))
                self.chain.pop()
        return key, self.loaded[identity]

    def _child_text(self, path: str, full: str, file: Path | None, at: NodePath, source: Source) -> str | None:
        try:
            if self.texts is not None:
                if full not in self.texts:
                    raise UsageError(f"workflow '{path}' is not among the texts that this run is pinned to")
                return self.texts[full]
            if file is None:
                raise UsageError(f"workflow '{path}' cannot be found: this definition has no folder")
            return read_text(file)
        except UsageError as error:
            self._refuse(source, at, "UNKNOWN_WORKFLOW", error.message)
        except DefinitionError as error:
            self.problems += error.problems
        return None

    def _refuse(self, source: Source, at: NodePath, code: str, message: str) -> None:
        self.problems.append(source.problem(code, place(source, at) + message, at))


def _check_values(data: Any, name: str) -> None:
    """Refuse data that its text would be refused for: a run reads that text when it is resumed."""
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        parts = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        for part in parts:
            if type(part) is int and not -(1 << 63) <= part < 1 << 63:
                shown = str(part) if part.bit_length() < 200 else "of the definition"
                raise DefinitionError.of(
                    [Problem("NUMBER", f"the number {shown} does not fit into 64 bits", file=name)]
                )
        level = [part for part in parts if isinstance(part, (dict, list))]
        if not level:
            return
    raise DefinitionError.of([Problem("TOO_DEEP", f"nested deeper than {MAX_DEPTH} levels", file=name)])

"""Everything that can be wrong in a definition: refused with a code, a message and the exact place (the mark §)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from noa.errors import Problem

Refused = Callable[..., list[Problem]]
OK = "{agent: any, action: go}"


def stages(body: str) -> str:
    """A workflow with these stages (a YAML list, indented by nothing)."""
    indented = "".join(f"    {line}\n" for line in body.split("\n"))
    return f"workflow:\n  name: w\n  stages:\n{indented}"


def tasks(body: str, kind: str = "parallel") -> str:
    """A workflow with one stage with these tasks (a YAML list)."""
    indented = "\n".join(f"    {line}" for line in body.split("\n"))
    return stages(f"- name: s\n  type: {kind}\n  tasks:\n{indented}")


CASES: dict[str, tuple[Any, ...]] = {
    # --- form of the document
    "empty": ("§", ("EMPTY", "the file is empty")),
    "only a comment": ("§# nothing\n", ("EMPTY", "the file is empty")),
    "not a mapping": ("§- a\n- b\n", ("WRONG_TYPE", "expected a mapping with 'workflow', got a list")),
    "just text": ("§hello\n", ("WRONG_TYPE", 'got text ("hello")')),
    "no workflow": (
        "§§stages: []\n",
        ("MISSING_KEY", "missing key 'workflow'"),
        ("UNKNOWN_KEY", "unknown key 'stages'"),
    ),
    "not YAML": ("a: [1,\n§", ("NOT_YAML", "not valid YAML: did not find expected node content")),
    "tab": ("workflow:\n§\tname: x\n", ("NOT_YAML", "a tab cannot indent")),
    "open quote": ("a: 'x\nb: 3\n§", ("NOT_YAML", "found unexpected end of stream, while scanning a quoted scalar")),
    "control character": ("a: b§\x01c\n", ("NOT_YAML", "the character U+0001 is not allowed")),
    "several documents": ("a: 1\n§---\nb: 2\n", ("SEVERAL_DOCUMENTS", "a second document begins here")),
    "duplicate key": (
        stages(f"- name: s\n  type: parallel\n  tasks: [{OK}]\n  §tasks: [{OK}]"),
        ("DUPLICATE_KEY", "key 'tasks' is given twice; first in line 6"),
    ),
    "number as key": (stages(f"- name: s\n  type: parallel\n  §1: x\n  tasks: [{OK}]"), ("KEY_TYPE", "got 1")),
    "boolean as key": (stages(f"- name: s\n  type: parallel\n  §true: x\n  tasks: [{OK}]"), ("KEY_TYPE", "got true")),
    "list as key": (
        stages(f"- name: s\n  type: parallel\n  ? §[a]\n  : x\n  tasks: [{OK}]"),
        ("KEY_TYPE", "a collection"),
    ),
    "merge key": (
        stages(f"- name: s\n  §<<: {{x: 1}}\n  type: parallel\n  tasks: [{OK}]"),
        ("MERGE_KEY", "the merge key '<<' is not part of YAML 1.2"),
    ),
    "unknown tag": (
        stages(f"- name: s\n  type: parallel\n  tasks: §!!set [{OK}]"),
        ("TAG", "tag 'tag:yaml.org,2002:set' is not known here"),
    ),
    "unknown alias": ("workflow: §*x\n", ("ALIAS", "alias *x has no anchor before it")),
    "alias inside itself": ("workflow: &a [§*a]\n", ("ALIAS", "stands inside its own anchor")),
    "deep nesting": ("a: " + "[" * 63 + "§" + "[" * 200, ("TOO_DEEP", "nested deeper than 64 levels")),
    "huge number": (
        tasks("- {agent: any, action: go, inputs: {x: §99999999999999999999}}"),
        ("NUMBER", "the number does not fit into 64 bits"),
    ),
    "number that is none": (
        tasks("- {agent: any, action: go, inputs: {x: §.nan}}"),
        ("NUMBER", ".nan is not a JSON number"),
    ),
    # --- keys of the workflow
    "no name": ("workflow:\n  §stages: §[]\n", ("MISSING_KEY", "missing key 'name'"), ("EMPTY", "'stages'")),
    "no stages": ("workflow:\n  §name: w\n", ("MISSING_KEY", "missing key 'stages'")),
    "unknown key of a workflow": (
        f"workflow:\n  name: w\n  §verison: '1'\n  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("UNKNOWN_KEY", "unknown key 'verison'. Known: "),
    ),
    "unknown key of a stage": (
        stages(f"- name: s\n  type: parallel\n  §depend_on: [x]\n  tasks: [{OK}]"),
        ("UNKNOWN_KEY", "Did you mean 'depends_on'?"),
    ),
    "key of another stage type": (
        stages(f"- name: s\n  type: parallel\n  §for_each: [1]\n  tasks: [{OK}]"),
        ("UNKNOWN_KEY", "stage 's': unknown key 'for_each'"),
    ),
    "unknown key of a task": (tasks("- {agent: any, action: go, §need: []}"), ("UNKNOWN_KEY", "Did you mean 'needs'?")),
    "unknown key of a timeout": (
        tasks("- {agent: any, action: go, timeout: {§exec: 3s}}"),
        ("UNKNOWN_KEY", "unknown key 'exec'. Known: execution, heartbeat, queue, total. Did you mean 'execution'?"),
    ),
    "unknown key of a branch": (
        stages(f"- name: s\n  type: conditional\n  branches:\n    - when: 'true'\n      §wen: x\n      tasks: [{OK}]"),
        ("UNKNOWN_KEY", "unknown key 'wen'. Known: tasks, when. Did you mean 'when'?"),
    ),
    "name of a stage is missing": (
        stages(f"- §type: parallel\n  tasks: [{OK}]"),
        ("MISSING_KEY", "missing key 'name'"),
    ),
    "type of a stage is missing": (stages(f"- §name: s\n  tasks: [{OK}]"), ("MISSING_KEY", "missing key 'type'")),
    "type of a stage is misspelled": (
        stages(f"- §name: s\n  §typ: parallel\n  tasks: [{OK}]"),
        ("MISSING_KEY", "stage 's': missing key 'type'"),
        ("UNKNOWN_KEY", "Did you mean 'type'?"),
    ),
    "a wrong value of a stage hides nothing of its tasks": (
        stages(
            "- name: s\n  type: parallel\n  max_parallel: §0\n  recovery: [§agian]\n  depends_on: [§x]\n  tasks:\n"
            "    - {agent: §nobody, action: go, needs: [§a], resources: {licence: §1}, recovery: [§retyr]}"
        ),
        ("WRONG_VALUE", "'max_parallel': expected a value greater than or equal to 1"),
        ("UNKNOWN_RECOVERY", "'agian'"),
        ("UNKNOWN_STAGE", "stage 'x'"),
        ("UNKNOWN_AGENT", "'nobody'"),
        ("UNKNOWN_TASK", "'a'"),
        ("UNKNOWN_POOL", "'licence'"),
        ("UNKNOWN_RECOVERY", "'retyr'"),
    ),
    "a wrong option of a stage type hides nothing of its tasks": (
        stages(
            "- name: s\n  type: loop\n  for_each: [1]\n  max_iterations: §0\n  tasks:\n"
            "    - {agent: §nobody, action: go, priority: §high, needs: [§a]}"
        ),
        ("WRONG_VALUE", "'max_iterations'"),
        ("UNKNOWN_AGENT", "'nobody'"),
        ("WRONG_TYPE", "'priority'"),
        ("UNKNOWN_TASK", "'a'"),
    ),
    "keys of a stage type that are at odds hide nothing of its tasks": (
        stages(
            "- §name: s\n  type: loop\n  max_iterations: 3\n  tasks:\n"
            "    - {agent: §nobody, action: go, needs: [§a], recovery: [§retyr], inputs: {x: '${{ item }}'}}"
        ),
        ("WRONG_VALUE", "exactly one of 'for_each', 'while' and 'until'"),
        ("UNKNOWN_AGENT", "'nobody'"),
        ("UNKNOWN_TASK", "'a'"),
        ("UNKNOWN_RECOVERY", "'retyr'"),
    ),
    "a wrong name of a stage or of the workflow hides nothing": (
        stages("- name: §a/b\n  type: parallel\n  tasks: [{agent: §nobody, action: go}]").replace(
            "name: w", "name: §w/x"
        ),
        ("INVALID_NAME", "w/x"),
        ("INVALID_NAME", "a/b"),
        ("UNKNOWN_AGENT", "'nobody'"),
    ),
    "nobody is blamed for naming a broken agent": (
        f"workflow:\n  name: w\n  agents:\n    mine: {{§comand: [x]}}\n    other: §5\n  stages:\n    - name: s\n"
        "      type: parallel\n      tasks:\n        - {agent: mine, action: go, name: a}\n"
        f"        - {{agent: mine, action: go, name: b}}\n"
        f"        - {{agent: other, action: go, name: c}}\n        - {OK}\n",
        ("UNKNOWN_KEY", "Did you mean 'command'?"),
        ("WRONG_TYPE", "expected a mapping"),
    ),
    "tasks are missing": (stages("- §name: s\n  type: parallel"), ("MISSING_KEY", "missing key 'tasks'")),
    "no tasks": (stages("- name: s\n  type: parallel\n  tasks: §[]"), ("EMPTY", "expected at least one")),
    "stage is text": (stages("- §hello"), ("WRONG_TYPE", "stage 1: expected a mapping, got text")),
    "task is text": (tasks("- §hello"), ("WRONG_TYPE", "expected a mapping, got text")),
    "agent without action": (tasks("- §{agent: any}"), ("MISSING_KEY", "missing key 'action'")),
    "action without agent": (tasks("- §{action: go}"), ("MISSING_KEY", "missing key 'agent'")),
    "neither agent nor workflow": (tasks("- §{name: x}"), ("MISSING_KEY", "needs 'agent' and 'action', or 'workflow'")),
    "workflow and agent": (tasks("- §{workflow: x.yaml, agent: any}"), ("MISSING_KEY", "not both")),
    # --- names
    "name with a slash": (
        stages(f"- name: §a/b\n  type: parallel\n  tasks: [{OK}]"),
        ("INVALID_NAME", "expected a name of letters, digits, '_', '-' and '.'"),
    ),
    "name too long": (tasks("- {agent: any, action: go, name: §" + "x" * 101 + "}"), ("INVALID_NAME", "at most 100")),
    "action that is no name": (tasks("- §{agent: any, action: 'a/b'}"), ("INVALID_NAME", "would be its action")),
    "version is a number": (
        f"workflow:\n  name: w\n  version: §1.0\n  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("WRONG_TYPE", "'version': expected text, got a number (1.0)"),
    ),
    "two stages of one name": (
        stages(f"- name: s\n  type: parallel\n  tasks: [{OK}]\n- name: §s\n  type: parallel\n  tasks: [{OK}]"),
        ("DUPLICATE_NAME", "two stages are named 's'; first in line 4"),
    ),
    "two tasks of one name": (tasks(f"- {OK}\n- §{OK}"), ("DUPLICATE_NAME", "two tasks of the stage are named 'go'")),
    # --- unknown names
    "unknown stage type": (
        stages(f"- name: s\n  type: §paralel\n  tasks: [{OK}]"),
        ("UNKNOWN_STAGE_TYPE", "Known: conditional, loop, parallel, sequential. Did you mean 'parallel'?"),
    ),
    "unknown agent": (
        tasks("- {agent: §pyhton, action: go}"),
        ("UNKNOWN_AGENT", "stage 's': task 'go': agent 'pyhton' is not known."),
    ),
    "agent that is an expression": (
        tasks("- {agent: '§${{ inputs.agent }}', action: go}").replace("'§$", "§'$"),
        ("UNKNOWN_AGENT", "agent '${{ inputs.agent }}' is not known."),
    ),
    "unknown action": (
        tasks("- {agent: shop, action: §by}"),
        ("UNKNOWN_ACTION", "agent 'shop' has no action 'by'. Known: buy, count, sell, sleep. Did you mean 'buy'?"),
    ),
    "agent that cannot be used": (
        tasks("- {agent: §broken, action: go}"),
        ("AGENT_UNUSABLE", "agent 'broken' (plugin 'tests') cannot be used: its program is gone"),
    ),
    "agent of an unknown kind": (tasks("- {agent: §odd, action: go}"), ("UNKNOWN_AGENT_KIND", "kind 'telepathy'")),
    "unknown stage in depends_on": (
        stages(
            f"- name: load\n  type: parallel\n  tasks: [{OK}]\n"
            f"- name: b\n  type: parallel\n  depends_on: [§lod]\n  tasks: [{OK}]"
        ),
        ("UNKNOWN_STAGE", "stage 'b': stage 'lod' is not known. Known: b, load. Did you mean 'load'?"),
    ),
    "unknown task in needs": (
        tasks("- {agent: any, action: go, name: a}\n- {agent: any, action: go, name: b, needs: [§aa]}"),
        ("UNKNOWN_TASK", "task 'aa' is not in this stage. Known: a, b."),
    ),
    "unknown recovery": (
        tasks("- {agent: any, action: go, recovery: [§agian]}"),
        ("UNKNOWN_RECOVERY", "recovery strategy 'agian' is not known. Known: again. Did you mean 'again'?"),
    ),
    "unknown recovery with options": (
        tasks("- {agent: any, action: go, recovery: [{§agian: {}}]}"),
        ("UNKNOWN_RECOVERY", "'agian'"),
    ),
    "unknown option of a recovery": (
        tasks("- {agent: any, action: go, recovery: [{again: {§tries: 3}}]}"),
        ("UNKNOWN_KEY", "unknown key 'tries'. Known: attempts, on."),
    ),
    "wrong option of a recovery": (
        tasks("- {agent: any, action: go, recovery: [{again: {attempts: §0}}]}"),
        ("WRONG_VALUE", "greater than or equal to 1, got a number (0)"),
    ),
    "recovery with two keys": (
        tasks("- {agent: any, action: go, recovery: [§{again: {}, on: x}]}"),
        ("WRONG_TYPE", "got a mapping with 2 keys"),
    ),
    "run_on without depends_on": (
        stages(f"- name: s\n  type: parallel\n  run_on: §failure\n  tasks: [{OK}]"),
        ("MISSING_KEY", "run_on: failure needs 'depends_on'"),
    ),
    # --- cycles
    "cycle of stages": (
        stages(
            f"- name: a\n  type: parallel\n  depends_on: [§b]\n  tasks: [{OK}]\n"
            f"- name: b\n  type: parallel\n  depends_on: [a]\n  tasks: [{OK}]"
        ),
        ("CYCLE", "cycle: a → b → a"),
    ),
    "stage that waits for itself": (
        stages(f"- name: a\n  type: parallel\n  depends_on: [§a]\n  tasks: [{OK}]"),
        ("CYCLE", "cycle: a → a"),
    ),
    "cycle of tasks": (
        tasks(
            "- {agent: any, action: go, name: a, needs: [§c]}\n"
            "- {agent: any, action: go, name: b, needs: [a]}\n- {agent: any, action: go, name: c, needs: [b]}"
        ),
        ("CYCLE", "cycle: s/a → s/c → s/b → s/a"),
    ),
    "cycle through the chain": (
        tasks("- {agent: any, action: go, name: a, needs: [§b]}\n- {agent: any, action: go, name: b}", "sequential"),
        ("CYCLE", "cycle: s/a → s/b → s/a"),
    ),
    "cycle through data": (
        tasks(
            "- {agent: any, action: go, name: a, inputs: {x: '${{ §tasks.b.outputs.y }}'}}\n"
            "- {agent: any, action: go, name: b, inputs: {x: '${{ tasks.a.outputs.y }}'}}"
        ),
        ("CYCLE", "cycle: s/a → s/b → s/a"),
    ),
    "task that reads itself": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §tasks.go.outputs.y }}'}}"),
        ("CYCLE", "cycle: s/go → s/go"),
    ),
    "cycle of a stage and data": (
        stages(
            "- name: a\n  type: parallel\n"
            "  tasks: [{agent: any, action: go, inputs: {x: '${{ §stages.b.go.outputs }}'}}]\n"
            f"- name: b\n  type: parallel\n  depends_on: [a]\n  tasks: [{OK}]"
        ),
        ("CYCLE", "cycle: a/go → b → a/go"),
    ),
    "stage whose condition reads itself": (
        stages(f"- name: a\n  type: parallel\n  when: §stages.a.go.outputs.x == 1\n  tasks: [{OK}]"),
        ("CYCLE", "cycle: a → a"),
    ),
    # --- resources
    "demand that no pool can grant": (
        tasks("- {agent: any, action: go, resources: {cpu: §64}}"),
        ("IMPOSSIBLE_DEMAND", "demands 64 of 'cpu', which has 4: it could never start"),
    ),
    "demand of memory": (
        tasks("- {agent: any, action: go, resources: {memory: §64GiB}}"),
        ("IMPOSSIBLE_DEMAND", "demands 65,536 MiB of 'memory', which has 8,192 MiB"),
    ),
    "demand of a device that is not there": (
        tasks("- {agent: any, action: go, resources: {gpu: §1}}"),
        ("IMPOSSIBLE_DEMAND", "'gpu', which has 0"),
    ),
    "unknown pool": (
        tasks("- {agent: any, action: go, resources: {licences: §1}}"),
        ("UNKNOWN_POOL", "resource pool 'licences' is not known. Known: cpu, gpu, memory."),
    ),
    "negative demand": (
        tasks("- {agent: any, action: go, resources: {cpu: §-1}}"),
        ("WRONG_VALUE", "of at least 0, got -1"),
    ),
    # --- expressions
    "expression that does not parse": (
        tasks("- {agent: any, action: go, when: inputs.a +§}"),
        ("EXPRESSION_SYNTAX", "it ends too early"),
    ),
    "expression without end": (
        tasks("- {agent: any, action: go, inputs: {x: 'a §${{ inputs.a'}}"),
        ("EXPRESSION_SYNTAX", "'${{' has no '}}'"),
    ),
    "empty expression": (
        tasks("- {agent: any, action: go, inputs: {x: 'a ${{ §}}'}}"),
        ("EXPRESSION_SYNTAX", "the expression is empty"),
    ),
    "condition that is a number": (
        tasks("- {agent: any, action: go, when: §size(inputs.a)}"),
        ("NOT_BOOLEAN", "expected an expression that is true or false, `size(inputs.a)` gives a number"),
    ),
    "condition that is text": (
        tasks("- {agent: any, action: go, when: '§\"yes\"'}"),
        ("NOT_BOOLEAN", "gives text"),
    ),
    "condition that is a status": (
        tasks(f"- {OK}\n- {{agent: any, action: go, name: b, when: §tasks.go.status}}"),
        ("NOT_BOOLEAN", "gives text"),
    ),
    "division by zero": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §1 / 0 }}'}}"),
        ("EXPRESSION_ERROR", "divide by zero"),
    ),
    "expression that names nothing": (
        tasks("- {agent: any, action: go, when: §foo == 3}"),
        ("UNKNOWN_NAME", "name 'foo' is not in scope here. In scope: inputs, run, stages, tasks."),
    ),
    "two unknown names": (
        tasks("- {agent: any, action: go, when: §foo == §bar}"),
        ("UNKNOWN_NAME", "'foo'"),
        ("UNKNOWN_NAME", "'bar'"),
    ),
    "misspelt name": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §input.path }}'}}"),
        ("UNKNOWN_NAME", "Did you mean 'inputs'?"),
    ),
    "unknown function": (
        tasks("- {agent: any, action: go, when: lenght§(inputs.a) > 3}"),
        ("UNKNOWN_FUNCTION", "function 'lenght' is not known"),
    ),
    "unknown stage in an expression": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §stages.t.go.outputs }}'}}"),
        ("UNKNOWN_REFERENCE", "stage 't' is not known. Known: s."),
    ),
    "unknown task in an expression": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §tasks.og.outputs }}'}}"),
        ("UNKNOWN_REFERENCE", "task 'og' is not in this stage. Known: go."),
    ),
    "unknown task of a stage": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §stages.s.og.outputs }}'}}"),
        ("UNKNOWN_REFERENCE", "stage 's' has no task 'og'. Known: go."),
    ),
    "unknown attribute of a task": (
        tasks(f"- {OK}\n- {{agent: any, action: go, name: b, inputs: {{x: '${{{{ §tasks.go.output.x }}}}'}}}}"),
        ("INCOMPLETE_REFERENCE", "after task 'go' expected .outputs or .status, got 'output'"),
    ),
    "task as a whole": (
        tasks(f"- {OK}\n- {{agent: any, action: go, name: b, inputs: {{x: '${{{{ §tasks.go }}}}'}}}}"),
        ("INCOMPLETE_REFERENCE", "expected .outputs or .status"),
    ),
    "stage as a whole": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ size(§stages.s) }}'}}"),
        ("INCOMPLETE_REFERENCE", "expected stages.<stage>.<task>.outputs"),
    ),
    "computed stage": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §stages[inputs.x].a.outputs }}'}}"),
        ("DYNAMIC_REFERENCE", "'stages' must be followed by names that are known beforehand"),
    ),
    "computed task": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §tasks[inputs.x].outputs }}'}}"),
        ("DYNAMIC_REFERENCE", "'tasks' must be followed by names that are known beforehand"),
    ),
    "item outside of a loop": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §item }}'}}"),
        ("UNKNOWN_NAME", "name 'item' is not in scope here"),
    ),
    "previous in a parallel loop": (
        stages(
            "- name: s\n  type: loop\n  for_each: [1]\n  max_parallel: 2\n"
            "  tasks: [{agent: any, action: go, inputs: {x: '${{ §previous }}'}}]"
        ),
        ("UNKNOWN_NAME", "name 'previous' is not in scope here"),
    ),
    "tasks in the condition of a stage": (
        stages(f"- name: s\n  type: parallel\n  when: §tasks.go.outputs.x == 1\n  tasks: [{OK}]"),
        ("UNKNOWN_NAME", "name 'tasks' is not in scope here"),
    ),
    "unknown field of run": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §run.idd }}'}}"),
        ("UNKNOWN_NAME", "field of run 'idd' is not known. Known: id, workflow. Did you mean 'id'?"),
    ),
    "expression too deep": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §" + "+".join(["inputs.a"] * 40) + " }}'}}"),
        ("EXPRESSION_SYNTAX", "nested deeper than 32 levels"),
    ),
    "task of another branch": (
        stages(
            "- name: c\n  type: conditional\n  branches:\n    - {when: 'true', tasks: [{agent: any, action: a}]}\n"
            "  else: [{agent: any, action: b, inputs: {x: '${{ §tasks.a.outputs }}'}}]"
        ),
        ("UNKNOWN_REFERENCE", "task 'a' is not in this stage. Known: b."),
    ),
    # --- stage types
    "loop of no kind": (
        stages(f"- §name: s\n  type: loop\n  tasks: [{OK}]"),
        ("WRONG_VALUE", "a loop has exactly one of 'for_each', 'while' and 'until'"),
    ),
    "loop of two kinds": (
        stages(f"- §name: s\n  type: loop\n  for_each: [1]\n  until: 'true'\n  max_iterations: 3\n  tasks: [{OK}]"),
        ("WRONG_VALUE", "got for_each and until"),
    ),
    "loop without a bound": (
        stages(f"- §name: s\n  type: loop\n  until: index > 3\n  tasks: [{OK}]"),
        ("WRONG_VALUE", "a loop with 'until' needs 'max_iterations'"),
    ),
    "for_each that is a number": (
        stages(f"- name: s\n  type: loop\n  for_each: §3\n  tasks: [{OK}]"),
        ("WRONG_VALUE", "'for_each': must be a list"),
    ),
    "while that is a number": (
        stages(f"- name: s\n  type: loop\n  while: §size(previous) + 1\n  max_iterations: 3\n  tasks: [{OK}]"),
        ("NOT_BOOLEAN", "gives a number"),
    ),
    # --- not yet
    "approval that cannot be had": (
        tasks("- {agent: any, action: go, approval: §{quorum: 2, approvers: boss}}"),
        ("WRONG_VALUE", "'quorum' is 2, but there are 1 'approvers'"),
    ),
    "a secret where it would be recorded": (
        tasks("- {agent: any, action: go, when: '§secrets.key == \"x\"'}"),
        ("SECRET_MISUSED", "secrets are in scope of a task's 'inputs' only"),
    ),
    "a secret in the outputs of the workflow": (
        f"workflow:\n  name: w\n  outputs: {{x: '${{{{ §secrets.key }}}}'}}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("SECRET_MISUSED", "secrets are in scope of a task's 'inputs' only"),
    ),
    "a computed secret": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ size(§secrets.key) }}'}}"),
        ("SECRET_MISUSED", "a secret can only be passed on as it is"),
    ),
    "all secrets": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §secrets }}'}}"),
        ("SECRET_MISUSED", "a secret can only be passed on as it is"),
    ),
    "a secret by a computed name": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §secrets[inputs.name] }}'}}"),
        ("SECRET_MISUSED", "a secret can only be passed on as it is"),
    ),
    "a secret with a path for its name": (
        tasks("- {agent: any, action: go, inputs: {x: '${{ §secrets[\"../key\"] }}'}}"),
        ("SECRET_MISUSED", "'../key' cannot name a secret"),
    ),
    "expression in an agent's env that is no secret": (
        "workflow:\n  name: w\n  agents:\n    mine: §{command: ['true'], "
        "env: {A: '${{ secrets.A }}', B: '${{ inputs.x }}'}}\n"
        f"  stages:\n    - name: s\n      type: parallel\n      tasks: [{OK}]\n",
        ("WRONG_VALUE", "'B' holds an expression: only ${{ secrets.NAME }} may stand in 'env'"),
    ),
    "a token in plain text": (
        "workflow:\n  name: w\n  agents:\n    far: §{address: 'far:1', token: plain}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("WRONG_VALUE", "a token stands as ${{ secrets.NAME }}"),
    ),
    "a secret on a command line": (
        "workflow:\n  name: w\n  agents:\n    near: §{command: [run, '${{ secrets.key }}']}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("WRONG_VALUE", "no expression can stand in 'command'"),
    ),
    "tls of a sidecar": (
        'workflow:\n  name: w\n  agents:\n    near: §{command: ["true"], tls: true}\n'
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("WRONG_VALUE", "'tls' and 'token' are for agents with an 'address'"),
    ),
    "tls with a key that is not known": (
        "workflow:\n  name: w\n  agents:\n    far: {address: 'far:1', tls: {§cafile: a.pem}}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("UNKNOWN_KEY", "unknown key 'cafile'. Known: ca_file, cert_file, key_file, server_name. Did you mean"),
    ),
    "tls with half a pair": (
        "workflow:\n  name: w\n  agents:\n    far: {address: 'far:1', tls: §{cert_file: a.pem}}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("WRONG_VALUE", "'cert_file' and 'key_file' come together"),
    ),
    "tls that is text": (
        "workflow:\n  name: w\n  agents:\n    far: {address: 'far:1', tls: §yes}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("WRONG_VALUE", "'tls': expected true, false, or a mapping such as {ca_file: ca.pem}"),
    ),
    "approval in a branch": (
        stages(
            "- name: s\n  type: conditional\n  branches:\n"
            "    - {when: 'true', tasks: [{agent: any, action: go, approval: '${{ §secrets.x }}'}]}"
        ),
        ("SECRET_MISUSED", "secrets are in scope"),
    ),
    "mode and alerts": (
        "workflow:\n  name: w\n  mode: §nothing\n  §alerts: [x]\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("UNKNOWN_MODE", "mode 'nothing' is not known"),
        ("NOT_SUPPORTED_YET", "'alerts'"),
    ),
    # --- inputs and outputs
    "unknown input in an expression": (
        f"workflow:\n  name: w\n  inputs: {{path: {{}}}}\n  outputs: {{x: '${{{{ §inputs.pat }}}}'}}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("UNKNOWN_INPUT", "input 'pat' is not known. Known: path. Did you mean 'path'?"),
    ),
    "condition that is an input of text": (
        "workflow:\n  name: w\n  inputs: {path: {type: string}}\n"
        f"  stages: [{{name: s, type: parallel, when: §inputs.path, tasks: [{OK}]}}]\n",
        ("NOT_BOOLEAN", "`inputs.path` gives text"),
    ),
    "input of an unknown type": (
        "workflow:\n  name: w\n  inputs:\n    path: {type: §strng}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("INVALID_SCHEMA", "'strng' is not a JSON Schema type"),
    ),
    "default of the wrong type": (
        "workflow:\n  name: w\n  inputs:\n    n: {type: integer, default: §many}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("WRONG_VALUE", "input 'n': the default does not fit its own schema: 'many' is not of type 'integer'"),
    ),
    "unknown key of an input": (
        "workflow:\n  name: w\n  inputs:\n    n: {type: integer, §defualt: 3}\n"
        f"  stages: [{{name: s, type: parallel, tasks: [{OK}]}}]\n",
        ("UNKNOWN_KEY", "unknown JSON Schema key 'defualt'. Did you mean 'default'?"),
    ),
    # --- agents of the definition
    "command that is not found": (
        "workflow:\n  name: w\n  agents:\n    mine:\n      command: §[nowhere]\n"
        "  stages: [{name: s, type: parallel, tasks: [{agent: mine, action: go}]}]\n",
        ("AGENT_UNUSABLE", "agent 'mine' cannot be used: command 'nowhere' is not found in PATH"),
    ),
    "agent that is nothing": (
        "workflow:\n  name: w\n  agents:\n    mine: §{capacity: 2}\n"
        "  stages: [{name: s, type: parallel, tasks: [{agent: any, action: go}]}]\n",
        ("WRONG_VALUE", "an agent has either 'command' or 'address'"),
    ),
    "address without a port": (
        "workflow:\n  name: w\n  agents:\n    mine: §{address: localhost}\n"
        "  stages: [{name: s, type: parallel, tasks: [{agent: any, action: go}]}]\n",
        ("WRONG_VALUE", "expected an address 'host:port', got 'localhost'"),
    ),
}


HOST = {"cpu": 4.0, "memory": 8.0 * 2**30, "gpu": 0.0}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_at_its_place(name: str, refused: Refused) -> None:
    text, *expected = CASES[name]
    refused(text, *expected, host_resources=HOST)

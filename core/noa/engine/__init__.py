"""The engine: a pure core (`state`, `decide`, `core`) that decides, and one asyncio shell that appends, then acts.

event ──> RunState.apply ──> commands ──┬── decisions: Decider answers with events, at once, without I/O
               ^                        └── effects: the shell does them, after the events are on disk
               └────────────────────────────────── their outcome comes back as an event
"""

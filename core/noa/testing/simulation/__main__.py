"""Plays schedules: `python -m noa.testing.simulation --seed 0 --count 10000`, or one of them again, told in full."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter

from noa.testing.simulation.schedules import Schedules, Script, SimulationError


def _names(text: str) -> frozenset[str]:
    return frozenset(name for name in text.split(",") if name)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _told(counts: Counter[str], seconds: float) -> str:
    rest = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()) if name not in _FIRST)
    return f"{counts['schedules']:,} schedules, {counts['events']:,} events in {seconds:.1f} s; {rest}"


_FIRST = ("schedules", "events")


def main() -> None:
    """Play what the arguments say; the exit code is 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m noa.testing.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the schedule, or the first of several")
    parser.add_argument("--count", type=int, default=1, help="how many; one alone is told in full")
    parser.add_argument("--order", type=int, default=0, help="another order of what happens")
    parser.add_argument("--without", type=_names, default=frozenset(), help="features, strategies left out")
    parser.add_argument("--drop", type=_names, default=frozenset(), help="stages (s1) and tasks (s1/t2) left out")
    parser.add_argument("--no-fault", type=_names, default=frozenset(), help="kinds of faults that do not happen")
    parser.add_argument("--faults", type=int, default=12, help="how many faults at most")
    parser.add_argument("--digest", action="store_true", help="print a hash of each schedule's story")
    parser.add_argument("--shrink", action="store_true", help="make a failing schedule smaller")
    options = parser.parse_args()
    schedules = Schedules()
    started = time.perf_counter()
    if options.digest:
        for seed in range(options.seed, options.seed + options.count):
            told = schedules.play(Script(seed), tell=True)
            _say(f"{seed} {hashlib.sha256(str(told).encode()).hexdigest()}")
        return
    if options.count > 1:
        try:
            schedules.play_all(range(options.seed, options.seed + options.count))
        except SimulationError as error:
            sys.exit(str(error))
        _say(_told(schedules.counts, time.perf_counter() - started))
        return
    script = Script(options.seed, options.order, options.without, options.drop, options.no_fault, options.faults)
    failed = schedules.play(script, tell=True)
    assert failed is not None
    if options.shrink and failed.why != "nothing failed":
        failed = schedules.smaller(failed)
    _say(str(failed))
    if failed.why != "nothing failed":
        sys.exit(1)


if __name__ == "__main__":
    main()

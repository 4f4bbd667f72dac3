"""Grants of resources, and what the host really has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noa.orchestration.resources import AGING_GRANTS, ResourceLedger, Ticket, host_resources

NAMES = ["cpu", "memory", "gpu"]
DEMANDS = st.dictionaries(st.sampled_from(NAMES), st.floats(0.1, 4.0), min_size=1)


@given(st.lists(st.tuples(DEMANDS, st.integers(-2, 2)), max_size=40), st.randoms(use_true_random=False))
def test_never_over_granted_and_everybody_is_granted_in_the_end(work: list, random: object) -> None:
    ledger = ResourceLedger(dict.fromkeys(NAMES, 4.0))
    held: list[Ticket] = []
    waiting: list[Ticket] = []
    left = list(work)
    while left or waiting or held:
        if left and random.random() < 0.6:  # type: ignore[attr-defined]
            demands, priority = left.pop()
            waiting.append(ledger.request(demands, priority=priority))
        elif held:
            ledger.release(held.pop(random.randrange(len(held))))  # type: ignore[attr-defined]
        held += [ticket for ticket in waiting if ticket.granted]
        waiting = [ticket for ticket in waiting if not ticket.granted]
        for name in NAMES:
            assert ledger.used[name] == pytest.approx(sum(t.demands.get(name, 0) for t in held))
            assert ledger.used[name] <= 4.0 + 1e-6
        assert held or not waiting, "something waits although nothing is held"
    assert set(ledger.used.values()) <= {0.0}
    assert ledger.waiting == 0


def test_all_demands_are_granted_at_once_or_none() -> None:
    ledger = ResourceLedger({"cpu": 2, "gpu": 1})
    first = ledger.request({"gpu": 1})
    second = ledger.request({"cpu": 1, "gpu": 1})
    assert (second.granted, ledger.used["cpu"]) == (False, 0)
    ledger.release(first)
    assert second.granted


def test_small_tickets_do_not_starve_a_large_one_and_pass_only_where_they_cannot_delay_it() -> None:
    ledger = ResourceLedger({"cpu": 4, "gpu": 1})
    small = ledger.request({"cpu": 1})
    large = ledger.request({"cpu": 4})
    later = ledger.request({"cpu": 1})
    other = ledger.request({"gpu": 1})
    assert (large.granted, later.granted, other.granted) == (False, False, True)
    ledger.release(small)
    assert (large.granted, later.granted) == (True, False)
    ledger.release(large)
    assert later.granted


def test_low_priority_goes_first_after_many_grants_to_others() -> None:
    ledger = ResourceLedger({"cpu": 1})
    held = ledger.request({"cpu": 1})
    poor = ledger.request({"cpu": 1}, priority=-1)
    grants = 0
    while not poor.granted:
        rich = ledger.request({"cpu": 1}, priority=1)
        ledger.release(held)
        held, grants = rich, grants + 1
        assert grants <= AGING_GRANTS + 1
    assert grants >= AGING_GRANTS - 1


async def test_cancelled_wait_leaves_nothing_behind() -> None:
    import asyncio

    ledger = ResourceLedger({"cpu": 1})
    held = await ledger.acquire({"cpu": 1})
    waiting = asyncio.create_task(ledger.acquire({"cpu": 1}))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    ledger.release(held)
    ledger.release(held)
    assert (ledger.used["cpu"], ledger.waiting) == (0.0, 0)


def test_refusal_says_why_and_declare_adds_pools() -> None:
    ledger = ResourceLedger({"memory": 1024 * 1024 * 100})
    assert "200 MiB of 'memory' are asked for, and there are only 100 MiB" in (
        ledger.refusal({"memory": 200 * 1024 * 1024}) or ""
    )
    assert "'licence' is not known" in (ledger.refusal({"licence": 1}) or "")
    ledger.declare({"licence": 1})
    assert ledger.refusal({"licence": 1}) is None
    assert ledger.refusal({"nothing": 0}) is None


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_host_with_cgroup_v2_limits_of_an_ancestor(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/cgroup": "0::/a/b\n",
        "proc/meminfo": "MemTotal: 16384 kB\n",
        "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "sys/fs/cgroup/a/b/memory.max": "1048576\n",
        "sys/fs/cgroup/a/memory.max": "max\n",
    })  # fmt: skip
    assert host_resources(tmp_path, affinity=4) == {"cpu": 1.5, "memory": 1048576.0, "gpu": 0.0}


def test_host_with_cgroup_v1_limits(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n",
        "proc/meminfo": "MemTotal: 16384 kB\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "9223372036854771712\n",
    })  # fmt: skip
    assert host_resources(tmp_path, affinity=2) == {"cpu": 0.5, "memory": 16384.0 * 1024, "gpu": 0.0}


def test_host_inside_a_container_whose_cgroup_is_the_mount(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/cgroup": "0::/docker/abc\n",
        "sys/fs/cgroup/cpu.max": "200000 100000\n",
        "sys/fs/cgroup/memory.max": "2097152\n",
    })  # fmt: skip
    assert host_resources(tmp_path, affinity=8) == {"cpu": 2.0, "memory": 2097152.0, "gpu": 0.0}


def test_host_without_any_limit(tmp_path: Path) -> None:
    assert host_resources(tmp_path, affinity=3) == {"cpu": 3.0, "memory": 0.0, "gpu": 0.0}
    assert host_resources()["cpu"] > 0

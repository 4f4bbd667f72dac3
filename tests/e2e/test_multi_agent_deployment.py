"""`definitions/multi-agent-deployment.yaml`: a workflow that deploys Rust and Go workers, undisturbed and killed."""

import contextlib
import gzip
import hashlib
import json
import random
import signal
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest
from tests.e2e.conftest import ROOT, Noa, descendants, kill, wait_gone

DEPLOYMENT = ROOT / "definitions" / "multi-agent-deployment.yaml"
WORKERS = ("noa-rust-worker", "noa-go-worker")
MARK = "NOA_AGENT_OF_TEST"
UNTIL_SPAWNED = 4
"""Tasks that have succeeded once the workers serve: master, survey, and spawn twice."""
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def noa(noa: Noa) -> Noa:
    """Marks the agents of this test, so that they are found whoever started them."""
    noa.env[MARK] = str(noa.home)
    return noa


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some hundred files of many sizes, with an empty one, equal ones, a large one and names that need care."""
    made = tmp_path / "files"
    chance = random.Random(7)
    for number in range(300):
        below = made / f"part {number % 7}"
        below.mkdir(parents=True, exist_ok=True)
        text = f"line {number} of many\n" * chance.randrange(1, 400)
        (below / f"file-{number:03}.txt").write_bytes(text.encode() + chance.randbytes(chance.randrange(2_000)))
    (made / "empty").write_bytes(b"")
    (made / "größe ü%20.bin").write_bytes(b"\x00" * 70_000)
    (made / "same-1").write_bytes(b"the same content" * 1000)
    (made / "same-2").write_bytes(b"the same content" * 1000)
    (made / "large.bin").write_bytes(chance.randbytes(3_000_000))
    return made


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its path, from this process alone."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def manifest_of(uri: str) -> dict:
    return json.loads(Path(unquote(urlsplit(uri).path)).read_text())


def assert_results_are_right(outputs: dict, folder: Path) -> None:
    """Every file is there once with its hash, and its compressed content is that of the file."""
    wanted = hashes_of(folder)
    results = manifest_of(outputs["manifest"])["results"]
    assert {one["path"]: one["sha256"] for one in results} == wanted
    assert len(results) == len(wanted) == outputs["files"]
    for one in results:
        content = gzip.decompress(Path(one["gzip_path"]).read_bytes())
        assert hashlib.sha256(content).hexdigest() == wanted[one["path"]]
        assert len(content) == one["size_bytes"] == (folder / one["path"]).stat().st_size
        assert Path(one["gzip_path"]).stat().st_size == one["gzip_bytes"]
    assert outputs["bytes_in"] == sum(one["size_bytes"] for one in results)
    assert outputs["verified"] is True


def spawned(noa: Noa) -> list[int]:
    """Processes that the stage spawn-workers told of, of all runs of this store."""
    events = [event for event in noa.events("attempt_succeeded") if event["task"].startswith("spawn-workers/")]
    return [replica["pid"] for event in events for replica in event["outputs"]["replicas"]]


def living_workers(noa: Noa) -> list[psutil.Process]:
    """Workers of this test that live, whoever started them."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        if process.info["name"] in WORKERS and process.info["status"] != psutil.STATUS_ZOMBIE:
            with contextlib.suppress(psutil.Error):
                found += [process] if process.environ().get(MARK) == str(noa.home) else []
    return found


def succeeded_tasks(noa: Noa) -> set[str]:
    return {event["task"] for event in noa.events("attempt_succeeded")}


def test_workers_of_two_languages_do_the_work_and_none_is_left(noa: Noa, folder: Path) -> None:
    process = noa.start("run", DEPLOYMENT, "--input", f"path={folder}", "--run-id", "r1", "--json")
    noa.wait_for_events(1, "stage_finished")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    outputs = json.loads(out)["outputs"]
    assert_results_are_right(outputs, folder)
    assert outputs["skipped"] == 0

    assert set(outputs["workers"]) == {"rust", "go"}
    shares = outputs["workers"].values()
    assert sum(share["files"] for share in shares) == 305
    assert all(share["files"] > 50 and share["shards"] == 8 for share in shares), "the work is shared evenly"

    pids = spawned(noa)
    assert len(set(pids)) == 4, "two processes of each kind"
    assert {pid for share in shares for pid in share["pids"]} <= set(pids)
    assert living_workers(noa) == []
    retired = [event for event in noa.events("attempt_succeeded") if event["task"].startswith("cleanup/")]
    assert [event["outputs"]["replicas"] for event in retired] == [[], [], []]


def test_number_of_workers_is_an_input_and_is_bounded(noa: Noa, folder: Path) -> None:
    done = noa.json("run", DEPLOYMENT, "--input", f"path={folder}", "--input", "workers=1", "--input", "max_files=9")
    assert done["outputs"]["files"] == 9
    assert len(spawned(noa)) == 2
    refused = noa("run", DEPLOYMENT, "--input", "workers=5")
    assert refused.returncode == 2
    assert "workers" in refused.stderr


def test_results_go_where_they_are_wanted(noa: Noa, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "packed"
    done = noa.json("run", DEPLOYMENT, "--input", f"path={folder}", "--input", f"output_dir={target}")
    assert_results_are_right(done["outputs"], folder)
    assert len(list(target.glob("*.gz"))) == len(set(hashes_of(folder).values()))


def test_empty_folder_is_no_work_and_is_verified(noa: Noa, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = noa.json("run", DEPLOYMENT, "--input", f"path={tmp_path / 'empty'}")
    assert (done["status"], done["outputs"]["files"], done["outputs"]["verified"]) == ("succeeded", 0, True)
    assert living_workers(noa) == []


def test_shards_that_fail_fail_the_run_and_it_cleans_up(noa: Noa, folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    done = noa("run", DEPLOYMENT, "--input", f"path={folder}", "--input", f"output_dir={blocked}")
    assert done.returncode == 1
    assert "OUTPUT_NOT_WRITABLE" in done.stdout + done.stderr
    assert {"cleanup/rust", "cleanup/go", "cleanup/master"} <= succeeded_tasks(noa)
    assert not any(task.startswith("collect-results/") for task in succeeded_tasks(noa))
    assert len(spawned(noa)) == 4
    assert living_workers(noa) == []


def test_folder_that_is_missing_fails_before_any_worker_and_it_cleans_up(noa: Noa, tmp_path: Path) -> None:
    done = noa("run", DEPLOYMENT, "--input", f"path={tmp_path / 'nowhere'}")
    assert done.returncode == 1
    assert "INPUT_NOT_FOUND" in done.stdout + done.stderr
    assert "cleanup/rust" in succeeded_tasks(noa)
    assert spawned(noa) == []


def test_worker_that_is_killed_is_replaced_and_the_result_is_whole(noa: Noa, folder: Path) -> None:
    process = noa.start("run", DEPLOYMENT, "--input", f"path={folder}", "--json")
    noa.wait_for_events(UNTIL_SPAWNED, "attempt_succeeded")
    victims = [each for each in descendants(process) if each.name() in WORKERS]
    for victim in {each.name(): each for each in victims}.values():
        victim.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert_results_are_right(json.loads(out)["outputs"], folder)
    assert living_workers(noa) == []


def test_cancelled_run_cleans_up(noa: Noa, folder: Path) -> None:
    process = noa.start("run", DEPLOYMENT, "--input", f"path={folder}")
    noa.wait_for_events(UNTIL_SPAWNED, "attempt_succeeded")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    over = noa.events("run_finished")[0]["status"]
    assert (process.returncode, over) in {(3, "cancelled"), (0, "succeeded")}, err  # it may just have been over
    assert {"cleanup/rust", "cleanup/go", "cleanup/master"} <= succeeded_tasks(noa)
    assert living_workers(noa) == []


def test_engine_killed_again_and_again_and_resumed_gives_the_same_result(noa: Noa, folder: Path) -> None:
    """kill -9 of the engine when the workers were spawned, and twice in the middle of their work."""
    process = noa.start("run", DEPLOYMENT, "--input", f"path={folder}", "--run-id", "killed")
    for done in (UNTIL_SPAWNED, UNTIL_SPAWNED + 6, UNTIL_SPAWNED + 12):
        noa.wait_for_events(done, "attempt_succeeded")
        process.send_signal(signal.SIGSTOP)
        workers = descendants(process)
        if not any(event["task"].startswith("cleanup/") for event in noa.events("task_scheduled")):
            assert {each.pid for each in living_workers(noa)} == {w.pid for w in workers if w.name() in WORKERS}
            assert done != UNTIL_SPAWNED or len(living_workers(noa)) == 4
        kill(process)
        assert wait_gone(workers) == [], "a worker ends with its engine"
        process = noa.start("resume", "killed", "--json")
    out, err = process.communicate(timeout=120)
    if process.returncode == 2:  # the run was over before the last kill came
        assert "is over" in err
        out = noa("show", "killed", "--json").stdout
    else:
        assert process.returncode == 0, err
    assert json.loads(out)["status"] == "succeeded"
    assert_results_are_right(json.loads(out)["outputs"], folder)
    finished = [event["task"] for event in noa.events("attempt_succeeded")]
    assert len(finished) == len(set(finished)), "no finished task ran again"
    assert living_workers(noa) == []

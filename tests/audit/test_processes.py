"""Several processes make one chain, and one that is killed leaves a chain that verifies."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gatepass.audit.proof import Proof
from gatepass.audit.trail import Trail

ROOT = Path(__file__).parents[2]


Start = Callable[[int, str], Awaitable[Process]]


@pytest.fixture
async def start(url: str, key_file: Path) -> AsyncIterator[Start]:
    """Starts a process that appends `count` entries of a namespace; none outlives the test."""
    started: list[Process] = []

    async def start(count: int, namespace: str) -> Process:
        started.append(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.audit.appender", url, str(key_file), str(count), namespace),
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def durable(process: Process) -> int:
    """The next number that it prints; 0 when it has ended."""
    assert process.stdout is not None
    return int(await process.stdout.readline() or 0)


async def verified(url: str, key_file: Path) -> Trail:
    trail = Trail(url, key_file)
    proof = Proof(trail.keys)
    await trail.prove(proof)
    verdict = proof.verdict()
    assert (verdict.first, verdict.vouched) == (1, True)
    return trail


async def test_several_processes_make_one_chain(url: str, key_file: Path, start: Start) -> None:
    # On an empty database: they also race to make the table.
    processes = [await start(20, f"team-{number}") for number in range(3)]
    for process in processes:
        _, _ = await asyncio.wait_for(process.communicate(), 120)
        assert process.returncode == 0
    trail = await verified(url, key_file)
    pages = [await trail.page(f"team-{number}") for number in range(3)]
    assert all(page.total == 21 for page in pages)
    await trail.close()


@pytest.mark.parametrize("after", [1, 12])
async def test_a_process_killed_while_it_writes_leaves_a_chain_that_verifies(
    url: str, key_file: Path, start: Start, after: int
) -> None:
    killed, survivor = await start(0, "killed"), await start(0, "survivor")
    known = 0
    while known < after:
        known = await asyncio.wait_for(durable(killed), 60)
    killed.kill()
    while more := await durable(killed):
        known = more  # printed before it was killed
    await killed.wait()
    # The lock went with it: the other one writes on.
    seen = await asyncio.wait_for(durable(survivor), 60)
    while await asyncio.wait_for(durable(survivor), 60) < seen + 5:
        pass
    survivor.kill()
    await survivor.communicate()
    trail = await verified(url, key_file)
    assert (await trail.page("killed")).total >= known
    await trail.append([])
    await trail.close()

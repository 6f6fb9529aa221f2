"""Runs several members of a sweep at a time, each on a share of this machine's CPU cores and GPUs."""

import os
import pathlib
import signal
import subprocess
import time
from typing import NamedTuple

from alexnet_jax import UserError
from alexnet_jax.runtime import interruption
from alexnet_jax.runtime.text import print_error, print_line
from experiments.sweep_members import LINUX, Member


class Share(NamedTuple):
    """A part of this machine."""

    cores: set[int]
    environment: dict[str, str]  # with its GPUs


def shares(number: int) -> list[Share]:
    """This machine in `number` parts. Raises UserError if it has GPUs, but fewer than `number`."""
    cores = sorted(os.sched_getaffinity(0)) if LINUX else list(range(os.cpu_count() or 1))
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        gpus = [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    else:
        gpus = [str(i) for i in range(len(list(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))))]
    if gpus and number > len(gpus):
        raise UserError(f"--at_once={number}: there are {len(gpus)} GPUs")

    def part(items, i):
        return items[i * len(items) // number : (i + 1) * len(items) // number]

    def environment(i):
        return {"CUDA_VISIBLE_DEVICES": ",".join(part(gpus, i))} if gpus else {}

    return [Share(set(part(cores, i) or cores), environment(i)) for i in range(number)]


def run(members: list[Member], at_once: int) -> int:
    """Runs the unfinished members; returns the exit status: 0, 1 if one failed or is damaged, 128 + a signal's number.

    The first SIGINT or SIGTERM is passed on to the running members; a second one, more than `interruption.ONE` seconds
    later, kills them.
    """
    states = {member.workdir: member.state for member in members}
    waiting = [member for member in members if states[member.workdir] not in ("finished", "damaged")]
    damaged = [member.damage for member in members if states[member.workdir] == "damaged"]
    finished = len(members) - len(waiting) - len(damaged)
    logs = members[0].workdir.parent / "*" / "log.txt"
    print_line(f"{len(members)} members, {finished} finished before; their output is in {logs}")
    for member in waiting:
        if member.in_use:
            print_line(f"{member.workdir.name}: waits for the process that uses its directory")
    free, failed = shares(at_once), 0
    running: dict[pathlib.Path, tuple[Member, subprocess.Popen, Share]] = {}
    received: list[tuple[int, float]] = []  # signals and their times

    def forward(number, _):
        now = time.monotonic()
        received.append((number, now))
        if len(received) == 1:  # os.write, because the signal may have interrupted a print
            os.write(2, b"alexnet_jax: waiting for the running members to save; a second signal kills them\n")
        for _, process, _ in running.values():
            if len(received) == 1:
                process.send_signal(number)
            elif now - received[0][1] > interruption.ONE:
                process.kill()

    handlers = {number: signal.signal(number, forward) for number in interruption.SIGNALS}
    while running or waiting and not received:
        while free and not received and (ready := next((m for m in waiting if not m.in_use), None)):
            waiting.remove(ready)
            if ready.state == "finished":  # by the process that used its directory
                finished += 1
                continue
            share = free.pop()
            process = ready.start(share.environment)
            if LINUX:
                os.sched_setaffinity(process.pid, share.cores)
            running[ready.workdir] = (ready, process, share)
            if received:  # since the process was started
                process.send_signal(received[0][0])
            print_line(f"{ready.workdir.name}: started")
        for member, process, share in list(running.values()):
            if process.poll() is not None:
                del running[member.workdir]
                free.append(share)
                state = member.end(process.returncode, bool(received))
                finished += state == "finished"
                failed += state == "failed"
                details = {
                    "finished": f" ({finished} of {len(members)})",
                    "failed": f" ({member.last_line()}; {member.workdir / 'log.txt'})",
                }
                print_line(f"{member.workdir.name}: {state}{details.get(state, '')}")
        time.sleep(0.1)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if received:
        print_error("alexnet_jax: interrupted; run the same command again to continue")
        return 128 + received[0][0]
    for damage in damaged:
        print_error(f"alexnet_jax: {damage}")
    if failed:
        print_error(f"alexnet_jax: {failed} of {len(members)} members failed; see above")
    return 1 if failed or damaged else 0

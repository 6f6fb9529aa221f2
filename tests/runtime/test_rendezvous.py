"""Processes that meet, and those that do not: each here is a thread."""

import concurrent.futures
import contextlib
import logging
import signal
import socket
import time

import pytest

from alexnet_jax import UserError
from alexnet_jax.runtime import interruption, rendezvous


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start(pool, address, process_id, number, seconds=20.0):
    return pool.submit(rendezvous.meet, address, number, process_id, rendezvous.Wait(seconds))


def errors(address, *processes, seconds=20.0):
    """The messages of processes (process_id, number) that start one after another; '' of those that have met."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        started = []
        for process in processes:
            started.append(start(pool, address, *process, seconds))
            time.sleep(0.05)
        return [str(process.exception(30) or "") for process in started]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_processes_meet_in_any_order(order, address):
    assert errors(address, *((i, 4) for i in order)) == [""] * 4


def test_one_process_meets_nobody(address):
    assert errors(address, (0, 1)) == [""]


def test_ipv6():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    with socket.socket(socket.AF_INET6) as free:
        with contextlib.suppress(OSError):
            free.bind(("::1", 0))
        port = free.getsockname()[1]
    if not port:
        pytest.skip("IPv6 is switched off")
    assert errors(f"[::1]:{port}", (0, 2), (1, 2)) == ["", ""]


def test_another_number_of_processes_ends_all_at_once(address):
    message = "--num_processes=3 in process 1, but 2 in process 0; use one number"
    assert errors(address, (0, 2), (1, 3)) == [message] * 2
    assert errors(address, (1, 3), (0, 2)) == [message] * 2


def test_two_processes_with_one_number_end_all_at_once(address):
    message = "--process_id=1: there are two processes with this number; give each its own"
    assert errors(address, (0, 3), (1, 3), (1, 3)) == [message] * 3
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = start(pool, address, 0, 2)
        time.sleep(0.2)
        other = str(start(pool, address, 0, 2).exception(10))
        assert other == f"--coordinator_address={address}: Address already in use; use another"
        assert not waiting.done()
        assert start(pool, address, 1, 2).exception(10) is None and waiting.exception(10) is None


def test_who_is_awaited_is_said_and_the_wait_ends(address, caplog, monkeypatch):
    monkeypatch.setattr(rendezvous, "FIRST_WORD", 0.1)
    caplog.set_level(logging.INFO)
    advice = "start all processes with the same flags but --process_id, or raise --start_timeout"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, other = start(pool, address, 0, 4, seconds=1.0), start(pool, address, 2, 4)
        assert str(first.exception(10)) == f"waited 1 s for process 1 and 3 of 4 at {address}; {advice}"
        assert "process 0 has ended" in str(other.exception(10))
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert f"waiting for process 1 and 3 of 4 at {address}; " in said
    assert f"waiting for the other processes, with process 0 at {address}; " in said
    caplog.clear()
    assert errors(address, (1, 2), seconds=0.5) == [f"waited 0 s for process 0 at {address}; {advice}"]
    assert f"waiting for process 0 at {address}; 0 s left" in caplog.records[0].getMessage()
    assert rendezvous._list(list(range(1, 20))) == "1, 2, 3, 4, 5, 6, 7, 8 and more"


def test_a_process_that_was_killed_is_awaited_again(address):
    host, port = address.split(":")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = start(pool, address, 0, 2)
        time.sleep(0.1)
        with socket.create_connection((host, int(port))) as killed:
            killed.sendall(b'{"process_id": 1, "num_proc')
        assert start(pool, address, 1, 2).exception(10) is None and waiting.exception(10) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\n" * 10,
        b"x" * 10**6,
        b"[" * 900 + b"\n",
        b'{"process_id": "1", "num_processes": 2}\n',
    ],
)
def test_strangers_are_ignored(sent, address):
    host, port = address.split(":")
    with concurrent.futures.ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as strangers:
        waiting = start(pool, address, 0, 2)
        time.sleep(0.1)
        for _ in range(3):
            stranger = strangers.enter_context(socket.create_connection((host, int(port))))
            with contextlib.suppress(OSError):
                stranger.sendall(sent)
        assert start(pool, address, 1, 2).exception(10) is None and waiting.exception(10) is None


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request" * 100])
def test_another_program_at_the_address_is_named(answer, address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        process = start(pool, address, 1, 2)
        connection, _ = server.accept()
        connection.recv(1000)
        connection.sendall(answer)
        connection.close()
        assert "process 0 has ended, or another program answers" in str(process.exception(10))


@pytest.mark.parametrize("process_id", [0, 1])
def test_a_signal_ends_the_wait(process_id, address):
    with interruption.held():
        signal.setitimer(signal.ITIMER_REAL, 0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            process = start(pool, address, process_id, 2)
            time.sleep(0.3)
            signal.raise_signal(signal.SIGTERM)
            assert isinstance(process.exception(5), interruption.Interrupted)


@pytest.mark.parametrize("place", ["no-such-host.invalid:1", "256.256.256.256:1"])
def test_an_address_that_does_not_exist_is_named(place):
    for process_id in (0, 1):
        with pytest.raises(UserError, match=rf"--coordinator_address={place}: .*; use another"):
            rendezvous.meet(place, 2, process_id, rendezvous.Wait(5))

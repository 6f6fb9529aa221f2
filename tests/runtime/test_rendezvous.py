"""Processes that meet, and those that do not: each here is a thread."""

import concurrent.futures
import contextlib
import logging
import re
import resource
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
        advice = "use another, and give --process_id=0 to one process only"
        assert other == f"--coordinator_address={address}: Address already in use; {advice}"
        assert not waiting.done()
        assert start(pool, address, 1, 2).exception(10) is None and waiting.exception(10) is None


def test_who_is_awaited_is_said_and_the_wait_ends(address, caplog, monkeypatch):
    monkeypatch.setattr(rendezvous, "FIRST_WORD", 0.6)
    caplog.set_level(logging.INFO)
    advice = "start all processes with the same flags but --process_id, or raise --start_timeout"
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        processes = [start(pool, address, 2, 4), start(pool, address, 0, 4, seconds=1.2)]
        expected = f"waited 1 s for process 1 and 3 of 4 at {address}; {advice}"
        assert [str(process.exception(10)) for process in processes] == [expected] * 2
    said = "\n".join(caplog.messages)
    assert f"waiting for process 1 and 3 of 4 at {address}; " in said
    assert f"waiting for the other processes, with process 0 at {address}; " in said
    caplog.clear()
    assert errors(address, (1, 2), seconds=1.0) == [f"waited 1 s for process 0 at {address}; {advice}"]
    assert caplog.messages == [f"waiting for process 0 at {address}; 0 s left"]


def test_a_long_wait_says_it_again(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    now = 100
    monkeypatch.setattr(rendezvous.time, "monotonic", lambda: now)
    wait = rendezvous.Wait(60)
    while now < 160:
        wait.turn("Godot")
        now += 1
    assert caplog.messages == [
        "waiting for Godot; 55 s left",
        "waiting for Godot; 24 s left",
    ]
    with pytest.raises(UserError, match="^waited 60 s for Godot; "):
        wait.turn("Godot")
    wait.leave(15)
    wait.turn("Godot")
    assert wait.left == 15


def test_of_many_missing_processes_a_few_are_named(address):
    assert rendezvous._list([1]) == "1"
    assert rendezvous._list(list(range(1, 20))) == "1, 2, 3, 4, 5, 6, 7, 8 and more"
    (message,) = errors(address, (0, 10**12), seconds=1)
    assert message.startswith(f"waited 1 s for process 1, 2, 3, 4, 5, 6, 7, 8 and more of 1000000000000 at {address}; ")


@pytest.mark.parametrize("sent", [b'{"process_id": 1, "num_proc', b'{"process_id": 1, "num_processes": 2}\n'])
def test_a_process_that_was_killed_is_awaited_again(sent, address):
    host, port = address.split(":")
    number = 3 if sent.endswith(b"\n") else 2  # with 2, it would have come in time
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        waiting = start(pool, address, 0, number)
        time.sleep(0.1)
        with socket.create_connection((host, int(port))) as killed:
            killed.sendall(sent.replace(b"2", b"%d" % number))
        time.sleep(0.3)
        others = [start(pool, address, i, number) for i in range(1, number)]
        assert [process.exception(10) for process in [waiting, *others]] == [None] * number


def test_process_0_may_be_started_again(address):
    host, port = address.split(":")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with socket.create_server((host, int(port))) as killed:
            other = start(pool, address, 1, 2)
            connection, _ = killed.accept()
            connection.close()
        assert start(pool, address, 0, 2).exception(10) is None and other.exception(10) is None


def test_a_connection_to_itself_is_not_process_0(address, monkeypatch):
    host, port = address.split(":")
    place, connect, made = (host, int(port)), socket.create_connection, []

    def connect_to_itself(*args):
        connection = connect(*args, source_address=None if made else place)
        made.append((connection.getsockname(), connection.getpeername()))
        return connection

    monkeypatch.setattr(socket, "create_connection", connect_to_itself)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        other = start(pool, address, 1, 2)
        time.sleep(0.1)
        assert made == [(place, place)]
        assert start(pool, address, 0, 2).exception(10) is None and other.exception(10) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\n" * 10,
        b"x" * 10**6,
        b"[" * 900 + b"\n",
        b"\xff\xfe\n",
        b'{"process_id": "1", "num_processes": 2}\n',
        b'{"process_id": true, "num_processes": 2}\n',
        b'{"process_id": 0, "num_processes": 2}\n',
        b'{"process_id": -1, "num_processes": 2}\n',
        b'{"process_id": 2, "num_processes": 2}\n',
        b'{"process_id": 1, "num_processes": 2}\n and more',
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


@pytest.mark.slow
@pytest.mark.parametrize("number_staying", [0, 150])
def test_a_thousand_strangers_are_ignored(number_staying, address):
    host, port = address.split(":")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as strangers:
            waiting = start(pool, address, 0, 2)
            time.sleep(0.1)
            for i in range(1000):
                with contextlib.ExitStack() as until:
                    (strangers if i < number_staying else until).enter_context(
                        socket.create_connection((host, int(port)))
                    )
            assert start(pool, address, 1, 2).exception(10) is None and waiting.exception(10) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request" * 1000, b"SSH-2.0-OpenSSH\r\n", b"\0\n", b'{"problem": 1}\n', b"[]\n"]
)
def test_another_program_at_the_address_is_named(answer, address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        process = start(pool, address, 1, 2)
        connection, _ = server.accept()
        with connection:
            connection.sendall(answer)
            expected = f"--coordinator_address={address}: another program answers; use another"
            assert str(process.exception(10)) == expected


@pytest.mark.parametrize("process_id", [0, 1])
def test_a_signal_ends_the_wait(process_id, address):
    with interruption.held(), concurrent.futures.ThreadPoolExecutor(1) as pool:
        process = start(pool, address, process_id, 2)
        time.sleep(0.3)
        signal.raise_signal(signal.SIGTERM)
        assert isinstance(process.exception(5), interruption.Interrupted)


def test_after_a_signal_to_process_0_the_others_end_too(address):
    with interruption.held(), concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting, other = start(pool, address, 0, 3), start(pool, address, 1, 3)
        time.sleep(0.5)
        signal.raise_signal(signal.SIGTERM)
        assert isinstance(waiting.exception(5), interruption.Interrupted)
        assert isinstance(other.exception(5), interruption.Interrupted | UserError)  # here it has the signal, too


HOSTS = ["no-such-host.invalid", "256.256.256.256", "x" * 70, "a..b", "[fe80::zz]", "http//host"]


@pytest.mark.parametrize("host", HOSTS)
def test_an_address_that_does_not_exist_is_named(host):
    for process_id in (0, 1):
        with pytest.raises(UserError, match=rf"^--coordinator_address={re.escape(host)}:1: .*; use another$"):
            rendezvous.meet(f"{host}:1", 2, process_id, rendezvous.Wait(5))


@pytest.mark.parametrize("taken_at", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_named(taken_at, address):
    with socket.create_server((taken_at, int(address.split(":")[1]))):
        assert "Address already in use; use another" in errors(address, (0, 2))[0]


def test_process_0_on_another_machine_than_the_address_says_so(caplog):
    (message,) = errors("192.0.2.1:23456", (0, 2), seconds=1)  # of a network that exists in documents only
    assert message.startswith("waited 1 s for process 1 of 2 at 192.0.2.1:23456; ")
    assert caplog.messages == [
        "--coordinator_address=192.0.2.1:23456: not an address of this machine, where process 0 runs"
    ]

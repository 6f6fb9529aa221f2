"""How processes that are started by hand meet: each tells process 0 which one it is, before JAX connects them.

JAX alone waits without a word for a process that never comes, and cannot tell why. Here process 0 names those that are
missing, and refuses a process with another number of processes or with the number of another one.

A process sends one line, {"process_id": i, "num_processes": n}. Once all have come, process 0 answers {"problem": ""}.
Or it answers {"problem": "…"}, with the error that ends them all. Any program can connect, so all else is ignored.
"""

import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import selectors
import socket
import time

from alexnet_jax import UserError
from alexnet_jax.runtime import files, interruption

log = logging.getLogger("alexnet_jax")

FIRST_WORD, NEXT_WORDS = 4, 30  # seconds until the first line about those that are missing, and between the next ones
TURN = 0.2  # seconds; a signal ends the wait within them
CONNECTING = 1.0  # seconds for a connection; a process on another continent needs more than a turn
LONGEST_LINE = 4000  # bytes
MOST_STRANGERS = 64  # connections that have not sent their line; one more closes the oldest
MOST_NAMED = 8  # missing processes in a message

HELLO = {"process_id": int, "num_processes": int}
ANSWER = {"problem": str}


class Wait:
    """A wait with an end, which says from time to time what it waits for."""

    def __init__(self, seconds: float):
        self._begin = time.monotonic()
        self._end, self._next_word = self._begin + seconds, self._begin + FIRST_WORD

    @property
    def left(self) -> float:
        """Seconds until the end; at least 0."""
        return max(self._end - time.monotonic(), 0.0)

    def leave(self, seconds: float) -> None:
        """Puts off the end if less than `seconds` are left."""
        self._end = max(self._end, time.monotonic() + seconds)

    def turn(self, awaited: str) -> None:
        """Logs what is awaited, if it is time to. Raises UserError at the end of the wait, or Interrupted."""
        interruption.check()
        if not self.left:
            raise UserError(
                f"waited {self._end - self._begin:.0f} s for {awaited}; start all processes with the same flags but "
                "--process_id, or raise --start_timeout"
            )
        if time.monotonic() > self._next_word:
            log.info("waiting for %s; %.0f s left", awaited, self.left)
            self._next_word = time.monotonic() + NEXT_WORDS


def meet(address: str, num_processes: int, process_id: int, wait: Wait) -> None:
    """Returns once all processes have come.

    Args:
      address: HOST:PORT of process 0; HOST may be an IPv6 address in brackets.

    Raises:
      UserError: the address does not work, a process did not come in time, or two do not fit together.
      interruption.Interrupted: there was a signal.
    """
    host, _, port = address.rpartition(":")
    place = host.strip("[]"), int(port)
    try:
        resolved = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
        if process_id > 0:
            _announce(place, address, num_processes, process_id, wait)
            return
        if not any(_is_here(family, where) for family, _, _, _, where in resolved):
            log.warning("--coordinator_address=%s: not an address of this machine, where process 0 runs", address)
        _gather(place[1], address, num_processes, wait)
    except UnicodeError as error:
        raise UserError(f"--coordinator_address={address}: not a name of a machine; use another") from error
    except OSError as error:
        cause = str(error.strerror or error).partition(" (")[0]  # Python adds the address that it could not bind
        taken = ", and give --process_id=0 to one process only" if error.errno == errno.EADDRINUSE else ""
        raise UserError(f"--coordinator_address={address}: {cause}; use another{taken}") from error


def _is_here(family, where):
    """Whether an address belongs to this machine."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((where[0], 0, *where[2:]))
        except OSError:
            return False
    return True


@dataclasses.dataclass
class _Guest:
    """A connection to process 0, what it has sent, and which process it is, once it has said so."""

    connection: socket.socket
    line: bytes = b""
    process_id: int | None = None


def _gather(port, address, num_processes, wait):
    """Waits in process 0 for all others, and tells them how the wait ended."""
    problem = ""
    with selectors.DefaultSelector() as selector:
        try:
            with _server(port) as server:
                selector.register(server, selectors.EVENT_READ)
                while missing := _missing(selector, num_processes):
                    wait.turn(f"process {_list(missing)} of {num_processes} at {address}")
                    for guest in [guest for guest in _guests(selector) if guest.process_id is None][:-MOST_STRANGERS]:
                        _dismiss(guest, selector)
                    for key, _ in selector.select(TURN):
                        if key.data is None:
                            _accept(server, selector)
                        elif not _listen(key.data, selector, num_processes):
                            _dismiss(key.data, selector)
        except (UserError, KeyboardInterrupt) as error:
            problem = str(error) if isinstance(error, UserError) else "process 0 was interrupted"
            raise
        finally:  # the port is free again
            for guest in _guests(selector):
                if guest.process_id is not None:
                    with contextlib.suppress(OSError):  # it has left
                        guest.connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")
                _dismiss(guest, selector)


def _server(port):
    # On all addresses of both families, like JAX's service, which takes the port next.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    server.setblocking(False)
    return server


def _guests(selector):
    """All guests, in the order in which they connected."""
    return [key.data for key in selector.get_map().values() if key.data]


def _missing(selector, num_processes):
    """The lowest numbers of processes that have not come; one more than a message names."""
    came = {guest.process_id for guest in _guests(selector)}
    return list(itertools.islice((i for i in range(1, num_processes) if i not in came), MOST_NAMED + 1))


def _accept(server, selector):
    with contextlib.suppress(BlockingIOError, ConnectionError):  # it has left already
        connection, _ = server.accept()
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, _Guest(connection))


def _dismiss(guest, selector):
    selector.unregister(guest.connection)
    guest.connection.close()


def _listen(guest, selector, num_processes):
    """Takes in what a guest has sent. Returns whether it may be another process. Raises UserError if that misfits."""
    try:
        received = guest.connection.recv(LONGEST_LINE)
    except OSError:
        return False
    guest.line += received
    if not received or len(guest.line) > LONGEST_LINE:
        return False
    if not guest.line.endswith(b"\n"):
        return True
    try:
        hello = files.parse_json(guest.line, HELLO)
    except ValueError:
        return False
    process_id, other_number = hello["process_id"], hello["num_processes"]
    if not 0 < process_id < other_number:
        return False
    others = {other.process_id for other in _guests(selector)}
    guest.process_id = process_id
    if other_number != num_processes:
        raise UserError(
            f"--num_processes={other_number} in process {process_id}, but {num_processes} in process 0; use one number"
        )
    if process_id in others:
        raise UserError(f"--process_id={process_id}: there are two processes with this number; give each its own")
    return True


def _announce(place, address, num_processes, process_id, wait):
    """Tells process 0 that this process has come, and waits for its answer."""
    hello = json.dumps({"process_id": process_id, "num_processes": num_processes}).encode() + b"\n"
    while True:
        wait.turn(f"process 0 at {address}")
        try:
            with socket.create_connection(place, CONNECTING) as connection:
                if connection.getsockname() == connection.getpeername():
                    # Where nobody listens, the system may choose the same port for this end. Process 0 shall get it.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                else:
                    connection.settimeout(TURN)
                    connection.sendall(hello)
                    if answer := _answer(connection, f"the other processes, with process 0 at {address}", wait):
                        break
        except OSError:  # process 0 does not listen yet, or has ended and may be started again
            pass
        time.sleep(min(TURN, wait.left))
    try:
        problem = files.parse_json(answer, ANSWER)["problem"]
    except ValueError as error:
        raise UserError(f"--coordinator_address={address}: another program answers; use another") from error
    if problem:
        raise UserError(problem)


def _answer(connection, awaited, wait):
    """The line that process 0 sends, or what another program does; b'' if it sends none."""
    line = b""
    while not line.endswith(b"\n") and len(line) <= LONGEST_LINE:
        wait.turn(awaited)
        with contextlib.suppress(TimeoutError):
            received = connection.recv(LONGEST_LINE)
            if not received:
                break
            line += received
    return line


def _list(numbers):
    """Numbers as '2, 3 and 5'; MOST_NAMED of them at most."""
    *most, last = [*map(str, numbers[:MOST_NAMED]), *(["more"] if numbers[MOST_NAMED:] else [])]
    return f"{', '.join(most)} and {last}" if most else last

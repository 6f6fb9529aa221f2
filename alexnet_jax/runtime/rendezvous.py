"""How processes that are started by hand meet: each tells process 0 which one it is, before JAX connects them.

JAX alone waits without a word for a process that never comes, and cannot tell why. Here process 0 names those that are
missing, and refuses a process with another number of processes or with the number of another one.

A process sends one line, {"process_id": i, "num_processes": n}. Process 0 answers once all have come, by an empty line,
or by the line of the error that ends them all. Whoever sends anything else is ignored: any program can connect.
"""

import contextlib
import dataclasses
import json
import logging
import selectors
import socket
import time

from alexnet_jax import UserError
from alexnet_jax.runtime import files, interruption

log = logging.getLogger("alexnet_jax")

FIRST_WORD, NEXT_WORDS = 5, 30  # seconds until the first line about those that are missing, and between the next ones
TURN = 0.2  # seconds; a signal ends the wait within them
LONGEST_LINE = 1000  # bytes

HELLO = {"process_id": int, "num_processes": int}


class Wait:
    """A wait with an end, which says from time to time what it waits for."""

    def __init__(self, seconds: float):
        self._begin = time.monotonic()
        self._end, self._next_word = self._begin + seconds, self._begin + FIRST_WORD

    @property
    def left(self) -> float:
        """Seconds until the end; at least 0."""
        return max(self._end - time.monotonic(), 0.0)

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
      address: HOST:PORT of process 0.

    Raises:
      UserError: the address does not work, a process did not come in time, or two do not fit together.
      interruption.Interrupted: there was a signal.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        if process_id == 0:
            with socket.create_server(("", int(port)), family=family) as server:
                _gather(server, address, num_processes, wait)
        else:
            _announce((host, int(port)), address, num_processes, process_id, wait)
    except OSError as error:
        cause = str(error.strerror or error).partition(" (")[0]  # Python adds the address that it could not bind
        raise UserError(f"--coordinator_address={address}: {cause}; use another") from error


@dataclasses.dataclass
class _Guest:
    """A connection to process 0, and what it has sent."""

    connection: socket.socket
    line: bytes = b""


def _gather(server, address, num_processes, wait):
    """Waits in process 0 for all others."""
    server.setblocking(False)
    came: dict[int, _Guest] = {}
    greeted: list[_Guest] = []  # those that came, and perhaps left
    problem = ""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as connections:
        selector.register(server, selectors.EVENT_READ)
        while len(came) < num_processes - 1 and not problem:
            missing = sorted(set(range(1, num_processes)) - came.keys())
            wait.turn(f"process {_list(missing)} of {num_processes} at {address}")
            for key, _ in selector.select(TURN):
                if key.data is None:
                    guest = _Guest(connections.enter_context(server.accept()[0]))
                    guest.connection.setblocking(False)
                    selector.register(guest.connection, selectors.EVENT_READ, guest)
                elif not (hello := _listen(key.data)):
                    selector.unregister(key.data.connection)  # it has left, or is something else
                    came = {process_id: guest for process_id, guest in came.items() if guest is not key.data}
                elif "process_id" in hello:
                    problem = problem or _misfit(hello, num_processes, came)
                    greeted.append(key.data)
                    came[hello["process_id"]] = key.data
        for guest in greeted:
            with contextlib.suppress(OSError):  # it has left
                guest.connection.sendall(f"{problem}\n".encode())
    if problem:
        raise UserError(problem)


def _listen(guest):
    """What a guest has sent: HELLO; {'unfinished': line}; or {} if it has left, or cannot be another process."""
    try:
        received = guest.connection.recv(LONGEST_LINE)
    except OSError:
        return {}
    guest.line += received
    if not received or len(guest.line) > LONGEST_LINE:
        return {}
    if not guest.line.endswith(b"\n"):
        return {"unfinished": guest.line}
    try:
        return files.parse_json(guest.line, HELLO)
    except ValueError:
        return {}


def _misfit(hello, num_processes, came):
    process_id, other_number = hello["process_id"], hello["num_processes"]
    if other_number != num_processes:
        return (
            f"--num_processes={other_number} in process {process_id}, but {num_processes} in process 0; use one number"
        )
    if process_id in came:
        return f"--process_id={process_id}: there are two processes with this number; give each its own"
    return ""


def _announce(place, address, num_processes, process_id, wait):
    """Tells process 0 that this process has come, and waits for its answer."""
    while True:
        wait.turn(f"process 0 at {address}")
        try:
            connection = socket.create_connection(place, timeout=TURN)
            break
        except OSError:  # it does not listen yet
            time.sleep(min(TURN, wait.left))
    with connection:
        connection.sendall(json.dumps({"process_id": process_id, "num_processes": num_processes}).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            wait.turn(f"the other processes, with process 0 at {address}")
            with contextlib.suppress(TimeoutError):
                received = connection.recv(LONGEST_LINE)
                answer += received
                if not received or len(answer) > LONGEST_LINE:
                    raise UserError(f"--coordinator_address={address}: process 0 has ended, or another program answers")
    if problem := answer.decode(errors="replace").strip():
        raise UserError(problem)


def _list(numbers):
    """Numbers as '2, 3 and 5'; at most eight of them."""
    *most, last = [*map(str, numbers[:8]), *(["more"] if numbers[8:] else [])]
    return f"{', '.join(most)} and {last}" if most else last

"""Top-k errors, and the output of a run: metrics.jsonl, TensorBoard, and a progress bar or log lines."""

import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from alexnet_jax import UserError
from alexnet_jax.runtime import files, processes, progress

log = logging.getLogger("alexnet_jax")

# The shape of a line of metrics.jsonl; see `files.check_shape`.
LINE = {"step": int, "epoch": float, "split": str, "loss": float, "top1_error": float}
DIVERGED = "nothing was saved since the last checkpoint; try a lower --config.schedule.learning_rate in a new --workdir"


def correct(scores_BxN: jax.Array, labels_B: jax.Array, k: int) -> jax.Array:
    """1 where a label is among the `k` classes of highest score, else 0; float32 [B].

    Of classes with equal scores, the first ones count as higher.
    """
    _, best_Bxk = lax.top_k(scores_BxN, min(k, scores_BxN.shape[1]))
    return (best_Bxk == labels_B[:, None]).any(1).astype(jnp.float32)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The objects in a metrics.jsonl, except a last line that is cut short.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    lines: list[dict[str, Any]] = []
    *whole, rest = files.read_text(path).split("\n")
    for text in whole + [rest] * ("\r" in rest):  # a tool has changed the ends of lines
        try:
            line = files.parse_json(text, LINE)
            if not all(math.isfinite(line[name]) for name in ("step", "epoch", "loss", "top1_error")):
                raise ValueError("not finite")
        except (OverflowError, ValueError) as error:
            raise UserError(f"{path}: cannot be read (line {len(lines) + 1}: {error}); {files.RESTORE}") from error
        lines.append(line)
    return lines


class Writer:
    """Appends to `metrics.jsonl` and TensorBoard in a working directory; only process 0 writes.

    Every line is flushed, so that it survives the process. If a line cannot be written, all processes raise UserError.
    """

    def __init__(self, workdir: pathlib.Path, step: int, evaluated: bool):
        """Continues a run at `step`: removes the lines of later steps, which will be written again.

        Args:
          evaluated: whether the checkpoint of `step` includes its evaluation. If not, the evaluation's line is removed
            too.
        """
        self._workdir, self._file = workdir, None
        with self._writing():
            if jax.process_index() == 0:
                path = self._workdir / "metrics.jsonl"
                _drop_after(path, step, evaluated)
                self._file = files.append(path)
                # tensorboardX's SummaryWriter hangs when the disk is full: it writes in a thread. The suffix is random,
                # so that there can be no link of this name.
                self._board = event_file_writer.EventsWriter(str(self._workdir / "events"), f".{secrets.token_hex(8)}")
                restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._board.write_event(event_pb2.Event(step=step + 1, session_log=restart))

    def write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Appends one object: `step`, `epoch`, `split` and the values."""
        with self._writing():
            if self._file:
                if not os.fstat(self._file.fileno()).st_nlink:
                    raise FileNotFoundError(errno.ENOENT, "the directory was removed; start again")
                line = json.dumps({"step": step, "epoch": epoch, "split": split} | dict(values))
                print(line, file=self._file, flush=True)
                scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=x) for name, x in values.items()]
                self._board.write_event(
                    event_pb2.Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
                )
                self._board.flush()

    @contextlib.contextmanager
    def _writing(self):
        with processes.together():
            try:
                yield
            except OSError as error:
                raise UserError(f"{self._workdir}: metrics cannot be written ({error.strerror or error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            for file in (self._file, self._board):
                with contextlib.suppress(OSError):  # already raised when the line was written
                    file.close()


def _drop_after(path, step, evaluated):
    def is_valid(line):
        return line["step"] <= step and (evaluated or line["step"] < step or line["split"] != "eval")

    lines = read(path) if path.exists() else []
    with files.whole(path) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines if is_valid(line))


class TrainingProgress:
    """Training metrics, images/s and the time left: on a progress bar if stderr is a terminal, otherwise in log lines.

    The metrics of a call of the program are read from the device while the next one runs, so that the device never
    waits.
    """

    def __init__(self, start: int, total: int, batch_size: int, window: Mapping[str, float]):
        """Continues a run at step `start` of `total`; `window` is that of its checkpoint."""
        self._step, self._total, self._batch_size = start, total, batch_size
        self._unread: list[tuple[range, dict[str, jax.Array]]] = []
        self._calls = 0
        self._sums = dict(window)
        self._reported, self._began, self._paused = start, time.monotonic(), 0.0
        show_bar = sys.stderr.isatty() and jax.process_index() == 0
        self._bar = tqdm(initial=start, total=total, unit="step", dynamic_ncols=True, disable=not show_bar)
        self._log_above_bar = logging_redirect_tqdm([log])

    def __enter__(self) -> Self:
        self._log_above_bar.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.close()
        self._log_above_bar.__exit__(*exception)

    def add(self, steps: range, values: dict[str, jax.Array]) -> None:
        """Takes the metrics of a call of `step.compile_steps`'s function, and checks those of earlier calls."""
        self._step = steps.stop
        self._unread.append((steps, values))
        self._bar.update(len(steps))
        self.check(newest=1)
        self._calls += 1
        if self._calls == 2:  # the time of the first call includes its compilation
            self._reported, self._began, self._paused = steps.start, time.monotonic(), 0.0

    def check(self, newest: int = 0) -> None:
        """Reads all metrics but the `newest` calls'. Raises UserError if a loss is not finite; it names the step."""
        while len(self._unread) > newest:
            steps, on_device = self._unread.pop(0)
            read = {name: np.atleast_1d(value) for name, value in jax.device_get(on_device).items()}
            for i, step in enumerate(steps):
                values = {name: float(values_N[i]) for name, values_N in read.items()}
                if not math.isfinite(values["loss"]):
                    raise UserError(f"step {step + 1}: the training loss is {values['loss']}; {DIVERGED}")
                for name, value in (values | {"steps": 1}).items():
                    self._sums[name] = self._sums.get(name, 0) + value

    @property
    def window(self) -> dict[str, float]:
        """The sums of the metrics since the last report, for a checkpoint."""
        return dict(self._sums)

    def report(self) -> dict[str, float]:
        """Shows and returns the means since the last report, and `images_per_second` without the evaluations' time."""
        self.check()
        steps = self._sums.pop("steps")
        means = {name: total / steps for name, total in self._sums.items()}
        seconds = time.monotonic() - self._began - self._paused
        means["images_per_second"] = (self._step - self._reported) * self._batch_size / seconds
        self._sums.clear()
        self._reported, self._began, self._paused = self._step, time.monotonic(), 0.0
        text = "loss {loss:.4f}, top-1 error {top1_error:.1%}, {images_per_second:.0f} images/s".format(**means)
        self._bar.set_description(text)
        if self._bar.disable:
            left = progress.time_left((self._total - self._step) * self._batch_size, means["images_per_second"])
            log.info("step %d/%d: %s, %s", self._step, self._total, text, left)
        return means

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time of a block from the images per second."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

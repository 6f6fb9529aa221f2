"""Top-k errors, and what a run says: metrics.jsonl, TensorBoard, and a progress bar or log lines."""

import collections
import contextlib
import json
import logging
import math
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from alexnet_jax import UserError
from alexnet_jax.runtime import files, processes

log = logging.getLogger("alexnet_jax")

DIVERGED = "nothing was saved since the last checkpoint; try a lower --config.schedule.learning_rate in a new --workdir"


def correct(scores_BxN, labels_B, k):
    """1 where a label is among the `k` classes of highest score (the first ones, of equals), else 0. float32 [B]."""
    _, best_Bxk = lax.top_k(scores_BxN, min(k, scores_BxN.shape[1]))
    return (best_Bxk == labels_B[:, None]).any(1).astype(jnp.float32)


def read(path: pathlib.Path) -> list[dict]:
    """The objects in a metrics.jsonl; a last line that is cut short is left out.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        for line in lines:
            line["step"], line["epoch"], line["split"], line["loss"], line["top1_error"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore or remove it") from error
    return lines


class Writer:
    """Appends to `metrics.jsonl` and TensorBoard in a working directory; only process 0 writes.

    What was written stays, whatever ends the process. Where it cannot be, all processes raise UserError.
    """

    def __init__(self, workdir, step, evaluated):
        """Goes on from `step`: what a run that was stopped left behind of later steps will be written again.

        So will the evaluation of `step`, unless the checkpoint knows that the net was `evaluated` there.
        """
        self._workdir, self._file = pathlib.Path(workdir), None
        with self._writing():
            if jax.process_index() == 0:
                path = self._workdir / "metrics.jsonl"
                _drop_after(path, step, evaluated)
                self._file = path.open("a")
                # Not tensorboardX's SummaryWriter, which hangs when its thread has met a full disk.
                self._board = event_file_writer.EventsWriter(str(self._workdir / "events"))
                restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._board.write_event(event_pb2.Event(step=step + 1, session_log=restart))

    def write(self, step, epoch, split, values):
        """One object with `step`, `epoch`, `split` and the values (floats)."""
        with self._writing():
            if self._file:
                line = json.dumps({"step": step, "epoch": epoch, "split": split} | values)
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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file:
            for file in (self._file, self._board):
                with contextlib.suppress(OSError):  # of what could not be written before either
                    file.close()


def _drop_after(path, step, evaluated):
    def stays(line):
        return line["step"] <= step and (evaluated or line["step"] < step or line["split"] != "eval")

    lines = read(path) if path.exists() else []
    with files.whole(path) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines if stays(line))


class Progress:
    """Training metrics as they come, on a bar with images/s and the time left, or in log lines where no one watches.

    A step's metrics are read from the device when the next step is under way, so that it never waits.
    """

    def __init__(self, start, total, batch_size, window):
        """Goes on from step `start` of `total`, with the `window` of the run that came so far."""
        self._start, self._step, self._total, self._batch_size = start, start, total, batch_size
        self._unread, self._sums = [], collections.Counter(window)
        self._reported, self._began, self._paused = start, time.monotonic(), 0.0
        watched = sys.stderr.isatty() and jax.process_index() == 0
        self._bar = tqdm(initial=start, total=total, unit="step", dynamic_ncols=True, disable=not watched)
        self._log_above_bar = logging_redirect_tqdm([log])

    def __enter__(self):
        self._log_above_bar.__enter__()
        return self

    def __exit__(self, *exception):
        self._bar.close()
        self._log_above_bar.__exit__(*exception)

    def add(self, step, values):
        """Takes the metrics of the step that ends at `step`, still on the device, and checks those before."""
        self._step = step
        self._unread.append((step, values))
        self._bar.update()
        self.check(wait_for=1)
        if step == self._start + 2:  # the first step was compiled, which says nothing about the speed
            self._reported, self._began, self._paused = step - 1, time.monotonic(), 0.0

    def check(self, wait_for=0):
        """Reads all metrics but the newest `wait_for`. Raises UserError if a loss is not finite; names the step."""
        while len(self._unread) > wait_for:
            step, values = self._unread.pop(0)
            values = {name: float(value) for name, value in jax.device_get(values).items()}
            if not math.isfinite(values["loss"]):
                raise UserError(f"step {step}: the training loss is {values['loss']}; {DIVERGED}")
            self._sums.update(values | {"steps": 1})

    @property
    def window(self):
        """The sums of what was read since the last report, for a checkpoint."""
        return dict(self._sums)

    def report(self):
        """Shows and returns the means since the last report, with `images_per_second` (evaluations are not counted)."""
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
            left = (self._total - self._step) * self._batch_size / means["images_per_second"]
            log.info("step %d/%d: %s, %s left", self._step, self._total, text, tqdm.format_interval(left))
        return means

    @contextlib.contextmanager
    def pause(self):
        """Leaves the time spent inside out of the images per second."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

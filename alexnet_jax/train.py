"""Training: `train_and_evaluate(config, workdir)`."""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import shlex
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from alexnet_jax import UserError, settings
from alexnet_jax.analysis import ensemble, figures, inference
from alexnet_jax.data import cache, pipeline
from alexnet_jax.data.base import normalized
from alexnet_jax.model import alexnet, counts, spec, structure
from alexnet_jax.runtime import files, interruption, processes
from alexnet_jax.training import (
    checkpoint,
    fidelity,
    image_list,
    metrics,
    run_directory,
    run_state,
    setup,
    step,
)

log = logging.getLogger("alexnet_jax")

_ERRORS = {"top1_error": float, "top5_error": float}
# The shape of result.json; see `files.check_shape`.
RESULT = {"step": int, "num_examples": int, "loss": float, "center": _ERRORS, "ten_crop": _ERRORS}


def train_and_evaluate(config: ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
    """Trains the net of `config`, evaluates it, and leaves everything in `workdir`.

    Run again on the same directory, it continues from the newest checkpoint and ends with the same bits as a run that
    was never interrupted. SIGINT and SIGTERM end it with a checkpoint: of the steps that were under way, or of the step
    before an evaluation that was under way. While `cache.keep` reads images, they end it with the checkpoint before.

    Args:
      config: a ConfigDict with the fields of `settings.defaults`.
      workdir: a directory, made if it does not exist.

    Returns:
      the contents of `result.json`: `step`, `num_examples`, `loss`, and `center` and `ten_crop`, each with `top1_error`
      and `top5_error` as fractions, of the test split.

    Raises:
      UserError: a setting, a file or the data does not work, another run uses `workdir`, or the loss is not finite.
      interruption.Interrupted: there was a signal.
    """
    with processes.together():
        workdir = files.absolute(workdir)
        config = fidelity.resolve(config)
        settings.check(config)
        run_directory.set_orientation(config, workdir)
        if config.init_from:
            config.init_from = str(files.absolute(config.init_from))
        training = setup.build(config)
        run_directory.check(config, workdir)
        has_begun = run_directory.has_begun(workdir)
        images = image_list.describe(training.data)
        if has_begun:
            image_list.check_changes(images, workdir)
        pretrained = starting_point(config, training.net) if not has_begun else None
    processes.check()
    processes.check_same_config({k: v for k, v in settings.flatten(config.to_dict()) if k != "dataset.root"})
    image_list.check_same(images, training.data)
    start = repr(pretrained and (pretrained.step, pretrained.class_names, pretrained.checksums))
    processes.check_same(
        zlib.crc32(start.encode()) >> 1, "config.init_from: the processes see different nets; give all the same one"
    )

    with interruption.held(), processes.locked(workdir / "lock"):
        with checkpoint.Checkpoints(workdir / "checkpoints") as checkpoints:
            state = restore_or_start(training, checkpoints, pretrained, workdir)
            # After images were removed, it may have taken all its steps already.
            training = dataclasses.replace(training, total_steps=max(training.total_steps, state.step))
            data, unfinished = training.data, state.step < training.total_steps
            if unfinished:  # first, because it may be refused: then the directory stays as it is
                training = dataclasses.replace(training, data=cache.keep(config.dataset.cache, data, training.mesh))
            run_directory.keep(config, data.root, data.statistics.mean, state.step, workdir)
            image_list.keep(images, workdir)
            if unfinished:
                with processes.together():
                    checkpoints.check_space(state.trees)
                (workdir / "result.json").unlink(missing_ok=True)  # of a shorter run
            describe(training, state.step)
            with (
                metrics.Writer(workdir, state.step, state.evaluated == state.step) as writer,
                metrics.TrainingProgress(
                    state.step, training.total_steps, training.batch_size, state.window
                ) as progress,
            ):
                Loop(training, state, checkpoints, writer, progress).run()
        return finish(training, state.params, workdir)


def restore_or_start(
    training: setup.Training,
    checkpoints: checkpoint.Checkpoints,
    pretrained: ensemble.Member | None,
    workdir: pathlib.Path,
) -> run_state.RunState:
    """The state of the newest checkpoint, or a new one, with the parameters of `pretrained` if it is given."""
    first = run_state.init(
        training.net, training.mesh, training.optimizer, training.seed, training.learning_rates.schedule.init
    )
    state = first.restored(checkpoints, training.images)
    images_before = checkpoints.metadata(state.step)["data"]["train_images"] if state.step else 0
    if state.step > training.total_steps * max(1, images_before / len(training.data.train)):
        raise UserError(
            f"config.num_epochs: these are {training.total_steps} steps, and the run in {workdir} has taken "
            f"{state.step} already; use more, or another --workdir"
        )
    if not state.step and pretrained:
        state.params = fine_tune(pretrained, training, state.params)
    return state


@dataclasses.dataclass
class Loop:
    """The training loop."""

    training: setup.Training
    state: run_state.RunState
    checkpoints: checkpoint.Checkpoints
    writer: metrics.Writer
    progress: metrics.TrainingProgress

    def run(self) -> None:
        """Takes the steps that are left. The order of a turn: evaluate, next batch, save, step or several."""
        t, state = self.training, self.state
        at_once = step.steps_at_once(t.mesh, isinstance(t.data.train, cache.DeviceCache), t.batch_size)
        train_steps = step.compile_steps(t.net, t.mesh, t.augmentation, t.optimizer, t.seed, at_once)
        evaluate = inference.make_evaluate([t.net], t.mesh, [t.data.statistics.mean], t.data.validation, t.batch_size)
        own_rows = pipeline.train_batches(t.data.train, t.batch_size, t.rows, t.seed, state.step)
        if at_once > 1:
            own_rows = pipeline.joined(own_rows, map(len, calls(t, state.step, at_once)), at_once)
        batches = processes.in_agreement(t.mesh, own_rows)
        steps = calls(t, state.step, at_once)
        while state.step < t.total_steps:
            with self.saved_at_the_end():
                result = self.evaluate(evaluate)
                batch = next(batches)
            self.record(result)
            if is_due(state.step, t.save_every):
                self.save()
            self.step(train_steps, batch, next(steps))
        with self.saved_at_the_end():
            result = self.evaluate(evaluate)
        self.record(result)
        self.save()

    @contextlib.contextmanager
    def saved_at_the_end(self) -> Iterator[None]:
        """Saves a checkpoint if a broken image or a signal ends the run."""
        try:
            yield
        except (UserError, interruption.Interrupted):
            self.save()
            raise

    def evaluate(self, evaluate: Callable) -> dict[str, Any] | None:
        """The evaluation of the validation images, if one is due or the training ends here, and there is none yet."""
        t, state = self.training, self.state
        if state.evaluated == state.step or not (is_due(state.step, t.eval_every) or state.step == t.total_steps):
            return None
        with self.progress.pause():
            return evaluate([state.params])

    def record(self, result: dict[str, Any] | None) -> None:
        """Writes an evaluation. The schedule observes it if it was due, not if the training only ends there."""
        state = self.state
        if not result:
            return
        log.info("epoch %.1f, validation: %s", self.epoch, inference.summary(result))
        self.writer.write(state.step, self.epoch, "eval", {"loss": result["loss"]} | result["center"])
        state.evaluated = state.step
        if is_due(state.step, self.training.eval_every):
            schedule = self.training.learning_rates.schedule
            state.schedule = schedule.observe(state.schedule, result["center"]["top1_error"])

    def save(self) -> None:
        """Saves a checkpoint. Raises UserError if a loss or a parameter is not finite: such a state must not be saved.

        Raises as well as `Checkpoints.save`.
        """
        self.progress.check()
        if not all_finite(self.state.trees):
            raise UserError(f"step {self.state.step}: the parameters are not finite; {metrics.DIVERGED}")
        self.state.window = self.progress.window
        self.state.save(self.checkpoints, self.training.images)

    def step(self, train_steps: Callable, batch: dict[str, jax.Array], steps: range) -> None:
        """Takes the next steps, and logs if a report is due."""
        t, state = self.training, self.state
        epochs = [step / t.steps_per_epoch for step in steps]
        rates = [t.learning_rates(state.schedule, epoch) for epoch in epochs]
        noise = [t.augmentation.has_noise(epoch) for epoch in epochs]
        state.params, state.opt_state, values = train_steps(
            state.params, state.opt_state, batch | cache.resident(t.data.train), steps.start, rates, noise
        )
        state.step = steps.stop
        self.progress.add(steps, values)
        if is_due(state.step, t.log_every) or state.step == t.total_steps:
            report = self.progress.report() | {"learning_rate": rates[-1][t.net.last.name]["kernel"]}
            self.writer.write(state.step, self.epoch, "train", report)

    @property
    def epoch(self) -> float:
        return self.state.step / self.training.steps_per_epoch


def is_due(step: int, every: float) -> bool:
    """Whether something that happens every `every` steps, perhaps a fraction, happens at `step`."""
    return step > 0 and step // every > (step - 1) // every


def calls(training: setup.Training, start: int, at_once: int) -> Iterator[range]:
    """The steps of each call of the program, from step `start` on: at most `at_once`, until something is due.

    The first call takes one step: its time includes the compilation, and does not count in the images per second.
    """
    t, stop = training, start + 1
    while start < t.total_steps:
        yield range(start, stop)
        start, stop = stop, stop + 1
        while stop < min(start + at_once, t.total_steps) and not any(
            is_due(stop, every) for every in (t.log_every, t.eval_every, t.save_every)
        ):
            stop += 1


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers in a tree are finite, bool []."""
    return functools.reduce(jnp.logical_and, [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


def starting_point(config: ConfigDict, net: spec.Net) -> ensemble.Member | None:
    """The net that was trained in `config.init_from`; None if that is ''.

    Raises:
      UserError: the directory holds no net, or one whose computation differs from that of `net`.
    """
    if not config.init_from:
        return None
    try:
        member = ensemble.read(pathlib.Path(config.init_from))
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    if not structure.compute_alike(member.net, net):
        ours = config.model.to_dict() | {"image_size": net.image_size}
        theirs = member.model | {"image_size": member.net.image_size}
        harmless = ("conv3to5_stddev", "stretch", "dtype")
        others = [name for name in theirs if theirs[name] != ours[name] and name not in harmless]
        others = ["net"] if "net" in others else others  # another net may not have the other fields
        flags = " ".join(shlex.quote(f"--config.model.{name}={theirs[name]}") for name in others)
        raise UserError(f"config.init_from={config.init_from}: its net was trained with {flags}; add that")
    if member.net.stretch != net.stretch:
        log.warning("config.init_from: its net was trained with config.model.stretch=%s", member.net.stretch)
    if member.dataset and member.orientation != config.dataset.orientation:
        log.warning("config.init_from: its net was trained with config.dataset.orientation=%s", member.orientation)
    return member


def fine_tune(member: ensemble.Member, training: setup.Training, params: alexnet.Params) -> alexnet.Params:
    """The parameters of a trained net, with the last layer of `params` if its classes are others."""
    trained = ensemble.restore(member, training.mesh)
    if list(member.class_names) != [normalized(name) for name in training.data.class_names]:
        last = member.net.last.name
        trained[last] = params[last]
    return trained


def describe(training: setup.Training, start: int) -> None:
    """Prints the layers; logs the data, the devices and the first step."""
    net, mesh, data = training.net, training.mesh, training.data
    if jax.process_index() == 0:
        print(counts.format_table(net), flush=True)
    log.info(
        "%d training, %d validation images of %d classes", len(data.train), len(data.validation), len(data.class_names)
    )
    if data.validation_split == "test":
        log.warning("no validation images: the test images take their place, also where a schedule observes the error")
    log.info("%d tower(s) on %s of %s devices", net.towers, dict(mesh.shape), mesh.devices.flat[0].device_kind)
    log.info("%s at step %d of %d", "continuing" if start else "starting", start, training.total_steps)


def finish(training: setup.Training, params: alexnet.Params, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates the test split by one view and by ten, and writes `result.json` and the pictures; once per run."""
    t, path = training, workdir / "result.json"
    result = files.read_json(path, RESULT) if path.exists() else {}
    if processes.highest(result.get("step") != t.total_steps):
        log.info("evaluating %d %s images, ten views each", len(t.data.test), t.data.test_split)
        evaluate = inference.make_evaluate(
            [t.net], t.mesh, [t.data.statistics.mean], t.data.test, t.batch_size, views=10
        )
        result = {"step": t.total_steps} | evaluate([params])
        first = t.net.layers[0].name
        kernels = multihost_utils.process_allgather(params[first]["kernel"], tiled=True)
        with processes.together():
            if jax.process_index() == 0:
                write_result(workdir, result, first, kernels, t.net.towers)
    log.info("%s: %s; %s", t.data.test_split, inference.summary(result), path)
    return result


def write_result(workdir: pathlib.Path, result: dict[str, Any], layer: str, kernels: Any, towers: int) -> None:
    """Writes `result.json`, the curves and, if the first `layer` is a convolution, a picture of its kernels.

    Raises UserError if they cannot be written.
    """
    files.write_json(workdir / "result.json", result)
    if kernels.ndim == 4:  # height, width, RGB, maps
        with files.whole(workdir / f"{layer}.png", "wb") as file:
            file.write(figures.png(figures.conv1_kernels(kernels, towers)))
    with files.whole(workdir / "curves.png", "wb") as file:
        file.write(figures.png(figures.curves(workdir / "metrics.jsonl")))

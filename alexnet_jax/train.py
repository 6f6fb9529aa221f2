"""Training: `train_and_evaluate(config, workdir)`."""

import functools
import json
import logging
import pathlib
import shlex

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.experimental import multihost_utils

from alexnet_jax import UserError
from alexnet_jax.analysis import ensemble, figures, inference
from alexnet_jax.data import augment, datasets, pipeline
from alexnet_jax.model import alexnet, nets, spec
from alexnet_jax.runtime import files, interruption, processes, sharding
from alexnet_jax.training import checkpoint, fidelity, metrics, optimizer, settings

log = logging.getLogger("alexnet_jax")


def train_and_evaluate(config, workdir):
    """Trains the net of `config`, evaluates it, and leaves everything in `workdir`.

    Run again on the same directory it goes on from the newest checkpoint, and ends with the same bits as a run that was
    never interrupted. The order between two steps is: evaluate, next batch, save.

    SIGINT and SIGTERM end it with a checkpoint: of the step they met, or of that before the evaluation they met.

    Args:
      config: a ConfigDict; configs/two_gpu.py has every field.
      workdir: a directory, made if there is none.

    Returns:
      the contents of `result.json`: `step`, `num_examples`, `loss`, and `center` and `ten_crop`, each with `top1_error`
      and `top5_error` as fractions, of the test split.

    Raises:
      UserError: a setting, a file or the data does not work, another run uses `workdir`, or the loss is not finite.
      interruption.Interrupted: there was a signal.
    """
    workdir = pathlib.Path(workdir).expanduser().absolute()
    with processes.together():
        config = fidelity.resolve(config)
        settings.check(config)
        if config.init_from:
            config.init_from = str(pathlib.Path(config.init_from).expanduser().absolute())
        net = nets.from_config(config.model)
        dataset = datasets.load(config.dataset.name, config.dataset.root, net.stored_size, net.stretch)
        net = net.with_classes(len(dataset.class_names))
        optimizer.layer_factors(config.optimizer.layer_rates, net)
        mesh = sharding.create_mesh(config.mesh.data, config.mesh.model, net.towers)
        rows = sharding.owned_rows(mesh, config.batch_size)
        if config.batch_size > len(dataset.train):
            raise UserError(
                f"config.batch_size={config.batch_size}: there are only {len(dataset.train)} training images; use less"
            )
        steps_per_epoch = len(dataset.train) / config.batch_size
        total_steps = max(1, round(config.num_epochs * steps_per_epoch))
        settings.check_workdir(config, workdir)
        source = starting_point(config, net) if config.init_from and not settings.has_begun(workdir) else None
    processes.check()
    processes.check_same_config({k: v for k, v in settings.flatten(config.to_dict()) if k != "dataset.root"})

    state, schedule, window = init_state(config, net, mesh), optimizer.init_schedule(), {}
    train_step = make_train_step(config, net, mesh, dataset)
    evaluate_validation = inference.make_evaluate([net], mesh, [dataset.mean], dataset.validation, config.batch_size)
    data = {"class_names": list(dataset.class_names), "train_images": len(dataset.train)}
    with interruption.held(), processes.locked(workdir / "lock"):
        with checkpoint.Checkpoints(workdir / "checkpoints") as checkpoints:
            start, notes, state = checkpoints.restore(state, data)
            if start > total_steps:
                raise UserError(
                    f"config.num_epochs={config.num_epochs}: these are {total_steps} steps, and {workdir} has gone on "
                    f"to {start}; use more, or another --workdir"
                )
            if start:
                schedule, window = notes["schedule"], notes["window"]
            elif source:
                state["params"] = fine_tune(source, mesh, dataset.class_names, state["params"])
            settings.keep(config, dataset.mean, start, workdir)
            if start < total_steps:
                (workdir / "result.json").unlink(missing_ok=True)  # of a shorter run
            describe(net, mesh, dataset, start, total_steps)
            batches = pipeline.train_batches(dataset.train, config.batch_size, rows, config.seed, start)
            batches = processes.in_agreement(mesh, batches)
            with (
                metrics.Writer(workdir, start, schedule["evaluated"] == start) as writer,
                metrics.Progress(start, total_steps, config.batch_size, window) as progress,
            ):

                def save(step):
                    progress.check()
                    check_finite(state, step)
                    checkpoints.save(step, state, {"schedule": schedule, "window": progress.window, "data": data})

                for step in range(start, total_steps + 1):
                    epoch, last = step / steps_per_epoch, step == total_steps
                    evaluate_now = is_due(step, config.eval_every * steps_per_epoch)
                    result = None
                    try:
                        if (evaluate_now or last) and schedule["evaluated"] != step:
                            with progress.pause():
                                result = evaluate_validation([state["params"]])
                        if not last:
                            batch = next(batches)
                    except (UserError, interruption.Interrupted):  # a broken image, a signal: keep what was learned
                        save(step)
                        raise
                    if result:
                        log.info("epoch %.1f, validation: %s", epoch, inference.summary(result))
                        writer.write(step, epoch, "eval", {"loss": result["loss"]} | result["center"])
                        schedule = schedule | {"evaluated": step}
                        if evaluate_now:
                            schedule = optimizer.observe(config.schedule, schedule, result["center"]["top1_error"])
                    if is_due(step, config.save_every) or last:
                        save(step)
                    if last:
                        break

                    rates = optimizer.learning_rates(config, net, schedule, epoch)
                    noise = not 0 < config.augment.noise_off_at <= epoch
                    state, values = train_step(state, batch, step, rates, noise)
                    progress.add(step + 1, values)
                    if is_due(step + 1, config.log_every) or step + 1 == total_steps:
                        report = progress.report() | {"learning_rate": rates[net.layers[-1].name]["kernel"]}
                        writer.write(step + 1, (step + 1) / steps_per_epoch, "train", report)
        return finish(config, workdir, net, mesh, dataset, state["params"], total_steps)


def is_due(step, every):
    """Whether something that happens `every` so many steps, perhaps a fraction, happens at `step`."""
    return step > 0 and step // every > (step - 1) // every


def check_finite(state, step):
    """Raises UserError if a parameter or velocity is not finite: such a state must not be saved."""
    if not all_finite(state):
        raise UserError(f"step {step}: the parameters are not finite; {metrics.DIVERGED}")


@jax.jit
def all_finite(tree):
    return functools.reduce(jnp.logical_and, [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


def init_state(config, net, mesh):
    """Parameters and velocities before the first step, on the mesh."""
    init = functools.partial(alexnet.init, net)
    key = jax.random.key(config.seed)
    shardings = sharding.param_shardings(mesh, jax.eval_shape(init, key))
    params = jax.jit(init, out_shardings=shardings)(key)
    return {"params": params, "velocity": jax.tree.map(jnp.zeros_like, params)}


def starting_point(config, net):
    """The net that was trained in `config.init_from`, an `ensemble.Member`.

    Raises:
      UserError: there is none, or it computes otherwise than `net`.
    """
    try:
        member = ensemble.read(pathlib.Path(config.init_from))
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    if not spec.compute_alike(member.net, net):
        ours = json.loads(config.model.to_json()) | {"image_size": net.image_size}
        theirs = member.model | {"image_size": member.net.image_size}
        alike = ("conv3to5_stddev", "stretch", "dtype")
        other = [name for name in theirs if theirs[name] != ours[name] and name not in alike]
        other = ["net"] if "net" in other else other  # whose other fields may not go with ours
        settings = " ".join(shlex.quote(f"--config.model.{name}={theirs[name]}") for name in other)
        raise UserError(f"config.init_from={config.init_from}: its net was trained with {settings}")
    if member.net.stretch != net.stretch:
        log.warning("config.init_from: its net was trained with config.model.stretch=%s", member.net.stretch)
    return member


def fine_tune(member, mesh, class_names, params):
    """The parameters of a trained net, with the last layer of `params` if the classes are others."""
    trained = ensemble.restore(member, mesh)
    if member.class_names != class_names:
        last = member.net.layers[-1].name
        trained[last] = params[last]
    return trained


def make_train_step(config, net, mesh, dataset):
    """A jitted function (state, batch, step, learning_rates, noise) → (state, metrics) that reuses the state's memory.

    `batch` is as `pipeline.train_batches` makes it, divided over 'data'; `learning_rates` as
    `optimizer.learning_rates`, `noise` whether colours vary. Metrics are `loss`, `top1_error` and `top5_error`, means
    over the batch, float32 [].
    """
    update = optimizer.from_config(config, net).update

    @functools.partial(jax.jit, donate_argnums=0, compiler_options=sharding.compiler_options(mesh))
    def train_step(state, batch, step, learning_rates, noise):
        specs = (sharding.param_specs(state["params"]), sharding.BATCH, jax.P(), jax.P())

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=jax.P())
        def loss(params, *inputs):
            # Every device has its own, as far as JAX knows: gradients are float32 when they are summed over 'data'.
            params = lax.pcast(params, "data", to="varying")
            return device_loss(config, net, mesh.shape["model"], dataset, params, *inputs)

        # Outside shard_map: there the sums over 'data' and 'model' are taken once, where they belong.
        (_, values), grads = jax.value_and_grad(loss, has_aux=True)(state["params"], batch, step, noise)
        updates, velocity = update(grads, state["velocity"], state["params"], learning_rates=learning_rates)
        return {"params": optax.apply_updates(state["params"], updates), "velocity": velocity}, values

    return train_step


def device_loss(config, net, devices, dataset, params, batch, step, noise):
    """The mean loss of a global batch and its metrics, from one device's share of the parameters and the examples.

    Runs under the axes 'data' and 'model'. What is random about an example depends on the seed, the step, its place in
    the global batch and, for dropout, the tower: never on the mesh.
    """
    B = len(batch["label"])
    step_key = jax.random.fold_in(jax.random.key(config.seed), step)
    places_B = lax.axis_index("data") * B + jnp.arange(B)
    example_keys = jax.vmap(lambda place: jax.random.split(jax.random.fold_in(step_key, place)))
    view_keys_B, dropout_keys_B = jnp.unstack(example_keys(places_B), axis=1)
    first_in_group_B = places_B - places_B % config.augment.crop_group
    towers_T = lax.axis_index("model") * (net.towers // devices) + jnp.arange(net.towers // devices)
    tower_keys_BxT = jax.vmap(lambda key: jax.vmap(functools.partial(jax.random.fold_in, key))(towers_T))(
        dropout_keys_B
    )
    x = augment.random_views(
        batch["image"],
        example_keys(first_in_group_B)[:, 0],
        view_keys_B,
        net.image_size,
        dataset.mean,
        augment.colour_scale(config.augment.colour_scale, dataset.colour_std),
        dataset.colour_axes,
        jnp.where(noise, config.augment.colour_noise, 0),
        jnp.where(noise, config.augment.divisor, 1),
        config.augment.flip,
    )
    logits, _ = alexnet.apply(net, devices, params, x, tower_keys_BxT)
    values = {
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
        "top1_error": 1 - metrics.correct(logits, batch["label"], 1),
        "top5_error": 1 - metrics.correct(logits, batch["label"], 5),
    }
    means = {name: lax.pmean(value.mean(), "data") for name, value in values.items()}
    return means["loss"], means


def describe(net, mesh, dataset, start, total_steps):
    """Prints the layers, and logs what is about to happen."""
    if jax.process_index() == 0:
        print(alexnet.format_table(net), flush=True)
    images, classes = f"{len(dataset.train)} training, {len(dataset.validation)} validation", len(dataset.class_names)
    log.info("%s images of %d classes", images, classes)
    log.info("%d tower(s) on %s of %s devices", net.towers, dict(mesh.shape), mesh.devices.flat[0].device_kind)
    log.info("%s at step %d of %d", "continuing" if start else "starting", start, total_steps)


def finish(config, workdir, net, mesh, dataset, params, step):
    """Evaluates the test split by one view and by ten, and writes `result.json` and the pictures; once per run."""
    split = "validation" if dataset.test is dataset.validation else "test"
    path = workdir / "result.json"
    result = files.read_json(path) if path.exists() else {}
    if processes.highest(result.get("step") != step):
        log.info("evaluating %d %s images, ten views each", len(dataset.test), split)
        evaluate_test = inference.make_evaluate([net], mesh, [dataset.mean], dataset.test, config.batch_size, views=10)
        result = {"step": step} | evaluate_test([params])
        kernels = multihost_utils.process_allgather(params["conv1"]["kernel"], tiled=True)
        with processes.together():
            if jax.process_index() == 0:
                write_result(workdir, result, kernels, net.towers)
    log.info("%s: %s; %s", split, inference.summary(result), path)
    return result


def write_result(workdir, result, kernels_HxWx3xN, towers):
    """Writes the pictures, then `result.json`. Raises UserError if they cannot be written."""
    try:
        (workdir / "conv1.png").write_bytes(figures.png(figures.conv1_kernels(kernels_HxWx3xN, towers)))
        (workdir / "curves.png").write_bytes(figures.png(figures.curves(workdir / "metrics.jsonl")))
        files.write_json(workdir / "result.json", result)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror or error})") from error

"""Weights in and out: other programs' AlexNets as runs of this one, and runs as files for other programs.

  python -m alexnet_jax.pretrained --read=FILE --workdir=DIR
  python -m alexnet_jax.pretrained --workdir=DIR --write=FILE

Reads torchvision's `alexnet` (.pth), the ONNX model zoo's bvlcalexnet and caffenet (.onnx), bvlc_alexnet.npy, and what
it writes itself: .safetensors, .onnx and .pth. What is read becomes a directory for alexnet_jax.evaluate,
alexnet_jax.predict and --config.init_from, with the mean and the scale of pixels that the weights were trained with.
"""

import json
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import UserError
from alexnet_jax.analysis import ensemble
from alexnet_jax.model import alexnet
from alexnet_jax.runtime import command_line, files, interruption, sharding
from alexnet_jax.training import checkpoint, fidelity, optimizer
from alexnet_jax.weights import formats
from configs import two_gpu


def read(path):
    """The `Weights` in a .pth, .onnx, .npy or .safetensors file.

    Raises:
      UserError: it cannot be read, or its arrays are not those of the net. No code that it may hold is ever run.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix not in formats.READERS:
        raise UserError(f"{path}: no such format; there are {', '.join(formats.READERS)}")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return formats.READERS[path.suffix](path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except formats.BROKEN as error:
        why = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{path}: no {path.suffix} file of weights, or a damaged one ({why}); nothing in it was run"
        ) from error


def write(path, weights):
    """Writes `Weights` to a file, by its suffix: the same bytes for the same weights. Raises UserError if it cannot."""
    path = pathlib.Path(path).expanduser()
    if path.suffix not in formats.WRITERS:
        raise UserError(f"{path}: no such format to write; there are {', '.join(formats.WRITERS)}")
    try:
        formats.WRITERS[path.suffix](path, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def from_workdir(workdir):
    """The `Weights` of the newest checkpoint of a run, whatever mesh it was trained on."""
    member = ensemble.read(pathlib.Path(workdir).expanduser().absolute())
    one_device = sharding.create_mesh(data=1, model=1, towers=1)
    params = jax.tree.map(np.asarray, ensemble.restore(member, one_device))
    return formats.Weights(member.model, params, member.mean, member.class_names, member.step)


def to_workdir(weights, workdir):
    """Makes a directory as a run of training would have left it. Raises UserError if there is something."""
    workdir = pathlib.Path(workdir).expanduser().absolute()
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"--workdir={workdir}: is there already; use another")
    config = two_gpu.get_config()
    config.model.update(weights.model)
    config.mesh.model = weights.net.towers
    config.dataset.name = config.dataset.root = ""
    config = fidelity.resolve(config)
    params = jax.tree.map(jnp.asarray, weights.params)
    state = {"params": params, "velocity": jax.tree.map(jnp.zeros_like, params)}
    data = {"class_names": list(weights.class_names), "train_images": 0}
    try:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        with (
            interruption.held(),
            tempfile.TemporaryDirectory(prefix=".", dir=workdir.parent, ignore_cleanup_errors=True) as temporary,
        ):
            unfinished = pathlib.Path(temporary) / workdir.name
            unfinished.mkdir()
            files.write_json(unfinished / "config.json", json.loads(config.to_json()))
            np.save(unfinished / "mean.npy", weights.mean)
            with checkpoint.Checkpoints(unfinished / "checkpoints") as checkpoints:
                notes = {"schedule": optimizer.init_schedule(), "window": {}, "data": data}
                checkpoints.save(weights.step, state, notes)
            interruption.check()
            os.replace(unfinished, workdir)
    except (OSError, UserError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--workdir={workdir}: cannot be written ({why})") from error


def main():
    parser = command_line.Parser("alexnet_jax.pretrained", __doc__)
    parser.add_argument("--workdir", required=True, help="of a training run to write; with --read, a new directory")
    parser.add_argument("--read", metavar="FILE", help=f"weights: {', '.join(formats.READERS)}")
    parser.add_argument("--write", metavar="FILE", help=f"where the weights go: {', '.join(formats.WRITERS)}")
    args = parser.parse_args()
    if (args.read is None) == (args.write is None):
        parser.error("needs --read=FILE or --write=FILE, one of them")
    command_line.set_up_jax()
    with command_line.one_line_errors("nothing was written"):
        if args.read:
            weights = read(args.read)
            to_workdir(weights, args.workdir)
        else:
            weights = from_workdir(args.workdir)
            write(args.write, weights)
        print(alexnet.format_table(weights.net))
        print(f"{weights.model['net']}, written to {args.write or args.workdir}")


if __name__ == "__main__":
    main()

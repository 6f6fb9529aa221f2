"""All settings of a run: their meaning, defaults and allowed values."""

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from alexnet_jax import UserError
from alexnet_jax.runtime import files


def defaults() -> ConfigDict:
    """The paper's net and recipe. The net or `config.fidelity` sets fields that are None: training/fidelity.py."""
    config = ConfigDict()
    config.seed = 0
    config.fidelity = "paper"  # the text of the paper; code: the nets of 2012 as they were run
    config.batch_size = 128  # examples per step, over all devices
    config.num_epochs = placeholder(float)  # length of the training
    config.init_from = ""  # the directory of a run to fine-tune; other classes get a new last layer

    config.mesh = ConfigDict()
    config.mesh.data = -1  # shards of a batch; -1: as many as the devices allow
    config.mesh.model = 2  # devices for the towers

    config.dataset = ConfigDict()
    config.dataset.name = "prepared"  # by alexnet_jax.prepare; or folder, tfds:NAME, imagenet, textures
    config.dataset.root = ""  # the directory; '': imagenet256, or ~/tensorflow_datasets for tfds:NAME
    # upright: turned by EXIF, as viewers show them; stored: not turned. None: as the set was prepared; stored for the
    # archives of ImageNet, as in 2012; otherwise upright
    config.dataset.orientation = placeholder(str)
    config.dataset.cache = "auto"  # where decoded images are kept: device, host or none; auto: where they fit

    config.model = ConfigDict()
    config.model.net = "two_gpu"  # or another of alexnet_jax/model/nets.py
    config.model.width = 1.0  # maps and units, relative to the paper's
    config.model.image_size = placeholder(int)  # of crops; None: the net's own, 224
    config.model.activation = "relu"  # or another of model/operations.py, as tanh
    config.model.without = ""  # a layer to leave out, as conv4
    config.model.input_std = (1.0, 1.0, 1.0)  # divides red, green and blue; 1: pixels are not scaled
    config.model.stretch = False  # stretch images to squares as in Caffe; otherwise crop them as in the paper
    config.model.dtype = "float32"  # or bfloat16: of activations and products; parameters and loss remain float32
    config.model.block1 = placeholder(str)  # what follows conv1, as "relu norm pool"
    config.model.block2 = placeholder(str)  # what follows conv2
    config.model.block5 = placeholder(str)  # what follows conv5
    config.model.norm_alpha = placeholder(float)  # α of the response norm
    config.model.conv3to5_stddev = placeholder(float)  # of the initial weights of conv3, conv4 and conv5

    config.augment = ConfigDict()
    config.augment.flip = True  # mirror a random half of the crops
    config.augment.colour_noise = 0.1  # standard deviation of α in section 4.1; 0: none
    config.augment.colour_scale = "standard_deviation"  # as in the 2012 code; eigenvalue: as in the paper's text
    config.augment.divisor = placeholder(float)  # of training images with their colour noise
    config.augment.noise_off_at = placeholder(float)  # epoch that ends colour noise and divisor; 0: never
    config.augment.crop_group = placeholder(int)  # consecutive examples that share crop and flip

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or lars, for large batches
    config.optimizer.bias_rate = placeholder(float)  # learning rate of biases, relative to that of weights
    config.optimizer.bias_rate_falls = placeholder(bool)  # whether it falls when that of weights does
    config.optimizer.bias_decay = placeholder(bool)  # whether weight decay includes biases
    config.optimizer.layer_rates = ""  # factors for some layers, as "conv1=0 fc8=10"; 0 freezes

    config.schedule = ConfigDict()
    config.schedule.name = placeholder(str)  # plateau, steps, hand, automatic or polynomial
    config.schedule.notes = placeholder(str)  # hand: a key of training/lab_notes.py; None: the net's notes
    config.schedule.learning_rate = 0.01
    config.schedule.warmup = 0.0  # epochs in which the rate rises from 0
    config.schedule.patience = 5  # plateau: evaluations without a new minimum, then ÷10, three times
    config.schedule.epochs = (30.0, 60.0, 80.0)  # steps: ÷10 at each of these

    config.log_every = 50  # steps
    config.eval_every = 1.0  # epochs
    config.save_every = 1000  # steps; the last step is always saved
    return config


CACHES = ("device", "host", "none")  # of decoded images, the fastest first
ABOVE_0 = ("num_epochs", "log_every", "eval_every", "save_every", "augment.divisor", "schedule.patience")
NOT_BELOW_0 = (
    "schedule.learning_rate",
    "schedule.warmup",
    "augment.colour_noise",
    "augment.noise_off_at",
    "optimizer.bias_rate",
)


def check(config: ConfigDict) -> None:
    """Raises UserError for numbers out of range; names are checked where the things that they name are built."""
    flat = dict(flatten(config.to_dict()))
    for name, default in flatten(defaults().to_dict()):
        if default is not None and flat[name] is None:
            raise UserError(f"config.{name}: has no value; use one like {default!r}")
    for name in ABOVE_0:
        if not 0 < flat[name] < math.inf:
            raise UserError(f"config.{name}={flat[name]}: must be a number above 0")
    for name in NOT_BELOW_0:
        if not 0 <= flat[name] < math.inf:
            raise UserError(f"config.{name}={flat[name]}: must be a number, 0 or above")
    if config.dataset.orientation not in (None, "upright", "stored"):
        raise UserError(f"config.dataset.orientation={config.dataset.orientation!r}: must be upright or stored")
    if config.dataset.cache not in ("auto", *CACHES):
        raise UserError(f"config.dataset.cache={config.dataset.cache!r}: must be auto, device, host or none")
    if not 1 <= config.augment.crop_group < 2**31:
        raise UserError(f"config.augment.crop_group={config.augment.crop_group}: must be from 1 to 2³¹ − 1")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed}: must be from 0 to 2³² − 1")
    if not all(isinstance(epoch, (int, float)) for epoch in config.schedule.epochs):
        raise UserError(f"config.schedule.epochs={config.schedule.epochs}: must be numbers, as (30,60)")


def check_fields(config: Any, argument: str) -> None:
    """Raises UserError if get_config() of --config=`argument` returned no ConfigDict with the fields of `defaults`."""
    remedy = "start from alexnet_jax.settings.defaults(), as configs/two_gpu.py does"
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config={argument}: get_config() returns {type(config).__name__}, not a ConfigDict; {remedy}"
        )
    theirs, known = (dict(flatten(c.to_dict())) for c in (config, defaults()))
    for names, fault in ((known.keys() - theirs, "lacks"), (theirs.keys() - known, "has the unknown")):
        if names:
            raise UserError(f"--config={argument}: get_config() {fault} {', '.join(sorted(names)[:5])}; {remedy}")


def read(path: pathlib.Path) -> ConfigDict:
    """The config in a config.json, merged as by `merge`. Raises UserError as well if it cannot be read."""
    return merge(files.read_json(path), path)


def merge(stored: Mapping[str, Any], path: pathlib.Path) -> ConfigDict:
    """Stored settings over the defaults of this version, so that settings added since then have their defaults.

    Versions without `dataset.orientation` trained on images as they are stored; weights from a file have no data set.

    Raises:
      UserError: `stored`, from the file `path`, is no config, or has settings that this version does not have.
    """
    config = defaults().lock()
    try:
        config.update(stored)
        if "orientation" not in stored.get("dataset", {}):
            config.dataset.orientation = "stored" if config.dataset.name else "upright"
    except KeyError as error:
        known = dict(flatten(config.to_dict()))
        unknown = [name for name, _ in flatten(stored) if name not in known]
        raise UserError(
            f"{path}: this version of the program has no setting {', '.join(unknown)}; use the version that wrote it"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not what training wrote; restore it") from error
    return config


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts as ('a.b', value)."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def changes(theirs: Mapping[str, Any], ours: Mapping[str, Any], may_change=()) -> str:
    """The differences between two trees of settings, in words; '' if they are equal."""
    old, new = dict(flatten(theirs)), dict(flatten(ours))
    return ", ".join(
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in old | new
        if old.get(name) != new.get(name) and name not in may_change
    )

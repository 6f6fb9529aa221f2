"""The differences between the paper's text and the 2012 code, one config field each.

`config.fidelity` sets every field that a config leaves at None: `paper` by the text, `code` as the nets of 2012 were
run.
"""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from alexnet_jax import UserError, settings
from alexnet_jax.model import nets
from alexnet_jax.training import lab_notes


class Difference(NamedTuple):
    """A config field, its value in the paper and in the code, its meaning, and the source of both values."""

    field: str
    paper: object
    code: object
    meaning: str
    source: str


# A source is a section of the paper and a part of net 145's files of 2012. The project's configs set colour_scale.
# schedule.name precedes the fields that the notes of the schedule decide.
DIFFERENCES = (
    Difference(
        "model.block1", "relu norm pool", "norm pool relu", "what follows conv1, in this order", "3.5; layer definition"
    ),
    Difference(
        "model.block2", "relu norm pool", "relu norm same_map_norm pool", "what follows conv2", "3.5; layer definition"
    ),
    Difference(
        "model.block5", "relu pool", "pool relu", "what follows conv5 (the same values)", "3.5; layer definition"
    ),
    Difference(
        "model.norm_alpha", 1e-4, 1e-4 / 5, "α of the response norm; the code divides it by n = 5", "3.3; layer parser"
    ),
    Difference(
        "model.conv3to5_stddev", 0.01, 0.03, "of the initial weights of conv3, conv4 and conv5", "5; layer definition"
    ),
    Difference(
        "optimizer.bias_rate", 1.0, 2.0, "learning rate of biases, relative to that of weights", "5; layer parameters"
    ),
    Difference("optimizer.bias_rate_falls", True, False, "whether it is lowered when that of weights is", "5; notes"),
    Difference("optimizer.bias_decay", True, False, "whether weight decay includes biases", "5; layer parameters"),
    Difference(
        "augment.colour_scale", "eigenvalue", "standard_deviation", "λ of the colour noise", "4.1; data provider"
    ),
    Difference("augment.divisor", 1.0, 1.1, "of training images with their colour noise", "4.1; data provider"),
    Difference("schedule.name", "plateau", "hand", "how the learning rate falls", "5; notes"),
    Difference(
        "augment.noise_off_at",
        0.0,
        float(lab_notes.NOTES["145"].noise_off),
        "epoch that ends colour noise and divisor; 0: they never end",
        "4.1; notes",
    ),
    Difference("augment.crop_group", 1, 32, "consecutive examples that share crop and flip", "4.1; data provider"),
    Difference("num_epochs", 90.0, float(lab_notes.NOTES["145"].end), "length of the training", "5; notes"),
)
BY_NOTES = {"augment.noise_off_at": "noise_off", "num_epochs": "end"}  # values that differ between the nets of 2012


def read(path: pathlib.Path) -> ConfigDict:
    """The resolved config in a config.json. Raises UserError, which names the file, as `settings.read` and `check`."""
    config = settings.read(path)
    try:
        config = resolve(config)
        settings.check(config)
    except UserError as error:
        raise UserError(f"{path}: {error}; restore it") from error
    return config


def resolve(config: ConfigDict) -> ConfigDict:
    """A copy of a config in which `config.fidelity` has set the fields of `DIFFERENCES` that were None.

    Raises:
      UserError: the fidelity or the notes do not exist, or the config sets a field that applies only to the paper's
        nets.
    """
    if config.fidelity not in ("paper", "code"):
        raise UserError(f"config.fidelity={config.fidelity!r}: must be paper or code")
    config = config.copy_and_resolve_references()
    net = nets.NETS.get(config.model.net)
    for difference in DIFFERENCES:
        section, _, name = difference.field.rpartition(".")
        fields = config[section] if section else config
        if section == "model" and net and not net.two_fidelities:
            if fields[name] is not None:
                raise UserError(f"config.{difference.field}: net {config.model.net!r} has no such choice; leave it out")
        elif fields[name] is None:
            fields[name] = getattr(difference, config.fidelity)
            if config.fidelity == "code" and difference.field in BY_NOTES:
                fields[name] = float(getattr(lab_notes.of(config), BY_NOTES[difference.field]))
    return config

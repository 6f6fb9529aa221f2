"""What the paper's text and the 2012 code do differently, one config field each.

A field that a config leaves at None is decided by `config.fidelity`: `paper`, or `code`, the nets of 2012 as
they were run.
"""

from typing import NamedTuple

from alexnet_jax import UserError
from alexnet_jax.model import nets
from alexnet_jax.training import lab_notes


class Difference(NamedTuple):
    """A config field, its value by the paper and by the code, what it is, and where the two say so."""

    field: str
    paper: object
    code: object
    what: str
    source: str


# Sources are a section of the paper, and what in net 145's files of 2012. The project's configs set colour_scale.
# schedule.name comes before what the notes decide with it.
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
BY_NOTES = {"augment.noise_off_at": "noise_off", "num_epochs": "end"}  # where other nets than 145 have other values


def resolve(config):
    """A copy of a config in which `config.fidelity` has decided the fields of `DIFFERENCES` that were None.

    Raises:
      UserError: there is no such fidelity, there are no such notes, or a net of its own kind was given a field of the
        paper's nets.
    """
    if config.fidelity not in ("paper", "code"):
        raise UserError(f"config.fidelity={config.fidelity!r}: there are paper and code")
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

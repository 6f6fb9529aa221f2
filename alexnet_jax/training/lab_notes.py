"""The epochs at which the learning rates of 2012 were lowered by hand, from the notes in the parameter files."""

from typing import NamedTuple

from ml_collections import ConfigDict

from alexnet_jax import UserError


class Notes(NamedTuple):
    """The changes by hand in a training, and their epochs.

    Attributes:
      weights: (epoch, layer, factor), in order: from this epoch on, the learning rate of the layer's weights is
        `config.schedule.learning_rate` times the factor. The layer '' means all layers that have not been named before.
      biases: the same for biases.
      noise_off: the epoch that ends colour noise; 0: it never ends.
      end: the length of the training, in epochs.
    """

    weights: tuple[tuple[float, str, float], ...]
    biases: tuple[tuple[float, str, float], ...]
    noise_off: float
    end: float

    def factors(self, layer: str, epoch: float) -> tuple[float, float]:
        """The factors of the initial learning rates of a layer's weights and of its biases after `epoch` epochs."""
        return _factor(self.weights, layer, epoch), _factor(self.biases, layer, epoch)


# The notes do not mention biases, but the files give their last rates above the notes. A last rate below the initial
# 0.02 is assumed to have fallen together with the last fall of the weights, and conv1's to 0 together with that of its
# weights. Net 170 is treated the same by analogy: its file gives the initial rates. The biases of net 146's conv6 had a
# lower rate from the start of its first training.
NOTES = {
    "145": Notes(
        weights=((25, "", 1e-1), (51, "", 1e-2), (67, "conv1", 1e-3), (72, "conv1", 0), (79, "", 1e-3)),
        biases=((72, "conv1", 0),),
        noise_off=67,
        end=91,
    ),
    "145-2010": Notes(
        weights=((23, "", 1e-1), (51, "", 1e-2), (68, "conv1", 1e-3), (72, "conv1", 0), (78, "", 1e-3)),
        biases=((72, "conv1", 0), (78, "", 1e-1)),
        noise_off=68,
        end=93,
    ),
    # Its weights end at 1e-5, but the notes give no epoch for that fall: net 145's is used.
    "145-half": Notes(
        weights=((20, "", 1e-1), (48, "", 1e-2), (66, "conv1", 1e-3), (72, "conv1", 0), (79, "", 1e-3)),
        biases=((79, "conv1", 1e-1), (79, "conv2", 1e-1)),
        noise_off=66,
        end=96,
    ),
    # Continues from a net 146 trained on ImageNet's Fall 2009 release.
    "146-2012-2009": Notes(
        weights=(
            (0, "", 1e-1),
            (0, "conv1", 1e-2),
            (3, "conv1", 1e-3),
            (4, "conv1", 0),
            (22, "", 1e-2),
            (42, "", 1e-3),
        ),
        biases=((0, "conv6", 1e-1), (4, "conv1", 0)),
        noise_off=38,
        end=52,
    ),
    "147": Notes(
        weights=((23, "", 1e-1), (51, "", 1e-2), (79, "conv1", 0), (79, "", 1e-3)),
        biases=((79, "conv1", 0), (79, "", 1e-1)),
        noise_off=0,
        end=90,
    ),
    "148": Notes(
        weights=((22, "", 1e-1), (44, "", 1e-2), (69, "conv1", 1e-3), (73, "conv1", 0), (86, "", 1e-3)),
        biases=((73, "conv1", 0),),
        noise_off=69,
        end=97,
    ),
    "150": Notes(
        weights=((25, "", 1e-1), (49, "", 1e-2), (66, "conv1", 1e-3), (72, "conv1", 0), (79, "", 1e-3)),
        biases=((72, "conv1", 0),),
        noise_off=66,
        end=92,
    ),
    # The changes made in addition to the automatic schedule. The length is inferred: the first epochs are those of net
    # 169, which was trained for 95.
    "170": Notes(weights=((74, "conv1", 0),), biases=((74, "conv1", 0),), noise_off=68, end=95),
}
# Net 146, `sixth_conv`, has no entry: its notes describe a net that continued from another training.
OF_NETS = {"one_gpu": "145-half", "no_overlap": "147", "no_norm": "148", "separate": "150"}


def of(config: ConfigDict) -> Notes:
    """The notes that a config's schedule follows.

    `automatic` follows the notes of net 170. `hand` follows those that `config.schedule.notes` names; by default those
    of the config's net, or of net 145 if its net has none.

    Raises:
      UserError: the notes do not exist, or the schedule does not use them.
    """
    name, by_hand = config.schedule.notes, [key for key in NOTES if key != "170"]
    if name is None:
        return NOTES["170" if config.schedule.name == "automatic" else OF_NETS.get(config.model.net, "145")]
    if name not in by_hand:
        raise UserError(
            f"config.schedule.notes: no notes {name!r} of a schedule by hand; there are {', '.join(by_hand)}"
        )
    if config.schedule.name != "hand":
        raise UserError(f"config.schedule.notes={name}: needs config.schedule.name=hand")
    return NOTES[name]


def _factor(changes, layer, epoch):
    factor, named = 1.0, False
    for start, name, value in changes:
        if epoch >= start and (name == layer or not (name or named)):
            factor, named = value, bool(name)
    return factor

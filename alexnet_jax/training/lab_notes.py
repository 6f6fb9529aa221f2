"""How the rates of the 2012 nets were lowered by hand: the notes at the end of their parameter files, as data."""

from typing import NamedTuple

from ml_collections import ConfigDict

from alexnet_jax import UserError


class Notes(NamedTuple):
    """What was changed by hand in a training, and at which of its epochs.

    Attributes:
      weights: (epoch, layer, factor), in order: from this epoch on the learning rate of the layer's weights is
        `config.schedule.learning_rate` times the factor. The layer '' is all layers that have not been named before.
      biases: the same for biases.
      noise_off: the epoch that ends colour noise; 0: it never ends.
      end: the length of the training, in epochs.
    """

    weights: tuple[tuple[float, str, float], ...]
    biases: tuple[tuple[float, str, float], ...]
    noise_off: float
    end: float

    def factors(self, layer: str, epoch: float) -> tuple[float, float]:
        """What the first rates of a layer's weights and of its biases are multiplied by after `epoch` epochs."""
        return _factor(self.weights, layer, epoch), _factor(self.biases, layer, epoch)


# The notes do not mention biases. Their last rates stand in the files, above the notes. Where a last rate is lower than
# the first, 0.02, we assume that it fell together with the last fall of the weights, and conv1's to 0 when that of its
# weights did (net 170's too, by analogy: its file has the first rates). Those of net 146's conv6 were lower from its
# first training on.
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
    # Its weights end at 1e-5, and no epoch is noted: that of net 145.
    "145-half": Notes(
        weights=((20, "", 1e-1), (48, "", 1e-2), (66, "conv1", 1e-3), (72, "conv1", 0), (79, "", 1e-3)),
        biases=((79, "conv1", 1e-1), (79, "conv2", 1e-1)),
        noise_off=66,
        end=96,
    ),
    # It goes on from a net 146 trained on ImageNet's Fall 2009 release.
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
    # What was done beside the automatic schedule. The length is an inference: its first epochs are those of net 169,
    # which had 95.
    "170": Notes(weights=((74, "conv1", 0),), biases=((74, "conv1", 0),), noise_off=68, end=95),
}
# Net 146, `sixth_conv`, is not among them: its notes are of a net trained before.
OF_NETS = {"one_gpu": "145-half", "no_overlap": "147", "no_norm": "148", "separate": "150"}


def of(config: ConfigDict) -> Notes:
    """The notes that a config's schedule follows.

    `automatic` follows those of net 170. `hand` follows those that `config.schedule.notes` names; by default those of
    its net, or of net 145 for a net that has none.

    Raises:
      UserError: there are no such notes, or the schedule is another.
    """
    name, by_hand = config.schedule.get("notes"), [each for each in NOTES if each != "170"]
    if name is None:
        return NOTES["170" if config.schedule.name == "automatic" else OF_NETS.get(config.model.net, "145")]
    if name not in by_hand:
        raise UserError(
            f"config.schedule.notes: no notes {name!r} of a schedule by hand; there are {', '.join(by_hand)}"
        )
    if config.schedule.name != "hand":
        raise UserError(f"config.schedule.notes={name}: are for config.schedule.name=hand")
    return NOTES[name]


def _factor(changes, layer, epoch):
    factor, named = 1.0, False
    for start, name, value in changes:
        if epoch >= start and (name == layer or not (name or named)):
            factor, named = value, bool(name)
    return factor

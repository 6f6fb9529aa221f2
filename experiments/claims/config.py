"""The runs of a claim as a config with a sweep. The claim's name and the scale follow the file's name after colons.

  python experiments/sweep.py list --config=experiments/claims/config.py:lrn:laptop --workdir=DIR
  python -m alexnet_jax.main --config=experiments/claims/config.py:lrn:laptop --workdir=DIR

Another word, as in pretraining:laptop:start, selects the runs that the claim's own runs start from.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from experiments import claims
from experiments.claims.claim import SCALES, Settings, Sweep


def get_config(words: str = "") -> ConfigDict:
    selected, scale = select(words)
    return selected.config(scale)


def sweep(words: str = "") -> Iterable[Settings]:
    selected, scale = select(words)
    return selected.members(scale)


def select(words: str) -> tuple[Sweep, str]:
    """The sweep and the scale that NAME:SCALE or NAME:SCALE:start selects. Raises ValueError for other words."""
    name, _, rest = words.partition(":")
    scale, _, which = rest.partition(":")
    claim = claims.CLAIMS.get(name)
    selected = claim and {"": claim.sweep, "start": claim.start}.get(which)
    if not selected or scale not in SCALES:
        names = ", ".join(claims.CLAIMS)
        raise ValueError(f"{words!r} is not NAME:SCALE with a SCALE of {' or '.join(SCALES)} and a NAME of {names}")
    return selected, scale

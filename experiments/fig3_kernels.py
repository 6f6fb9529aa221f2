"""One tower's first kernels lose their colours, the other's do not (Figure 3).

Paper: every run; "the kernels on GPU 1 are largely color-agnostic, while the kernels on GPU 2 are largely
color-specific. This kind of specialization occurs during every run and is independent of any particular random weight
initialization (modulo a renumbering of the GPUs)".
Log of 2012: nothing.

  python -m experiments fig3_kernels --scale=full --root=imagenet256 --workdir=DIR
  python -m experiments fig3_kernels --scale=laptop --root=imagenette256 --workdir=DIR

Measured is how much of the energy of a tower's kernels is colour: what is left of red, green and blue when their mean
is taken away, 0 of a grey kernel, two thirds of noise. The noise that the kernels began with, which the weight decay of
90 epochs takes away and that of a few does not, is subtracted with the factor that leaves least. Towers have parted if
one has twice the other's share of colour, and such a gap comes in less than 5 % of the ways to draw two halves of the
same kernels at random (p). The claim is supported if they have in every run, and not decided otherwise: towers that
have not parted yet may do so later.

Cost: three trainings of 90 epochs on ImageNet, or at the full width and 112 pixels of 20 minutes of a CPU core.
"""

import base64
import functools

import jax
import numpy as np

from alexnet_jax.analysis import ensemble, figures
from alexnet_jax.model import alexnet
from experiments import claims

DATA = claims.PHOTOGRAPHS
get_config = claims.paper_config
PERMUTATIONS = 10_000


def sweep(scale="laptop"):
    # A laptop's rate was tried at the full width, and stays if another is found for narrow nets.
    return claims.over_seeds({} if scale == "full" else {"model.width": 1.0, "schedule.learning_rate": 0.01})


def measure(members):
    """For each directory `share` and `energy` of the kernels less their beginning, and `kernels`: float16 in base64."""
    found = {}
    for member in members:
        trained = ensemble.load([member.workdir])
        (net,), (params,) = trained.nets, trained.params
        seed = member.settings["seed"]
        began = np.asarray(jax.jit(functools.partial(alexnet.init, net))(jax.random.key(seed))["conv1"]["kernel"])
        kernels = np.asarray(params["conv1"]["kernel"])
        share, energy = colour(kernels - (kernels * began).sum() / (began**2).sum() * began)
        found[member.workdir.name] = {
            "share": share.round(4).tolist(),
            "energy": [float(f"{one:.5g}") for one in energy],
            "kernels": base64.b64encode(kernels.astype(np.float16).tobytes()).decode(),
        }
    return found


def colour(kernels_HxWx3xN):
    """The share of colour in each kernel's energy, and that energy: [N], [N]."""
    energy = (kernels_HxWx3xN**2).sum((0, 1, 2))
    return ((kernels_HxWx3xN - kernels_HxWx3xN.mean(2, keepdims=True)) ** 2).sum((0, 1, 2)) / energy, energy


def by_tower(share, energy):
    """The share of colour of each tower, [2], and how likely a gap like theirs is between random halves."""

    def of_halves(order):
        halves = (-1, 2, len(share) // 2)
        return (share * energy)[order].reshape(halves).sum(2) / energy[order].reshape(halves).sum(2)

    rng = np.random.default_rng(0)
    towers = of_halves(np.arange(len(share)))
    gaps = abs(np.diff(of_halves(np.stack([rng.permutation(len(share)) for _ in range(PERMUTATIONS)]))))
    return towers[0], (1 + (gaps >= abs(np.diff(towers))).sum()) / (1 + PERMUTATIONS)


def summary(found, measured):
    found = [run for run in found if run.path.stem in measured]
    if not found:
        return claims.Summary(claims.NOT_RUN)
    table, parted, pictures = [["seed", "colour in tower 0, %", "in tower 1, %", "p"]], 0, {}
    for run in found:
        of_run = measured[run.path.stem]
        shares, chance = by_tower(np.array(of_run["share"]), np.array(of_run["energy"]))
        parted += chance < 0.05 and max(shares) >= 2 * min(shares)
        table.append([str(run.seed), *map(claims.percent, shares), f"{chance:.4f}"])
        kernels = np.frombuffer(base64.b64decode(of_run["kernels"]), np.float16).reshape(11, 11, 3, -1)
        picture = figures.png(figures.conv1_kernels(kernels.astype(np.float32), 2))
        pictures[f"seed_{run.seed}"] = (f"Kernels of conv1, seed {run.seed}.", picture)
    said = f"{parted} of {len(found)} runs"
    verdict = claims.SUPPORTED if parted == len(found) else claims.OPEN
    return claims.Summary(verdict, said, f"The towers have parted in {said}.", table, found, pictures)

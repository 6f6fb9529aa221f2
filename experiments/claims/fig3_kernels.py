"""The claim that the first layer's kernels are colour-agnostic in one tower and colour-specific in the other."""

import base64
import functools

import jax
import numpy as np

from alexnet_jax.analysis import ensemble, figures
from alexnet_jax.model import alexnet
from experiments import estimates, store, sweep_members
from experiments.claims.claim import COST_ON_PHOTOGRAPHS, Claim, Summary, Sweep
from experiments.claims.groups import over_seeds, per_net

PERMUTATIONS = 10_000
# The laptop's rate was chosen at the full width; it stays if another one is chosen for narrow nets.
LAPTOP = {"model.width": 1.0, "schedule.learning_rate": 0.01}


@per_net
def measure(trained: ensemble.Ensemble, member: sweep_members.Member) -> dict:
    """`share` and `energy` of the kernels less the initial ones, and `kernels` as base64 of float16."""
    (net,), (params,) = trained.nets, trained.params
    key = jax.random.key(member.settings["seed"])
    initial = np.asarray(jax.jit(functools.partial(alexnet.init, net))(key)["conv1"]["kernel"])
    kernels = np.asarray(params["conv1"]["kernel"])
    share, energy = colour(kernels - (kernels * initial).sum() / (initial**2).sum() * initial)
    return {
        "share": share.round(4).tolist(),
        "energy": [float(f"{one:.5g}") for one in energy],
        "kernels": base64.b64encode(kernels.astype(np.float16).tobytes()).decode(),
    }


def colour(kernels_HxWx3xN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of colour in the energy of each kernel, and that energy, both [N]."""
    energy = (kernels_HxWx3xN**2).sum((0, 1, 2))
    return ((kernels_HxWx3xN - kernels_HxWx3xN.mean(2, keepdims=True)) ** 2).sum((0, 1, 2)) / energy, energy


def by_tower(share: np.ndarray, energy: np.ndarray) -> tuple[np.ndarray, float]:
    """The share of colour in each tower, [2], and the probability of such a difference between random halves."""

    def of_halves(order):
        halves = (-1, 2, len(share) // 2)
        return (share * energy)[order].reshape(halves).sum(2) / energy[order].reshape(halves).sum(2)

    rng = np.random.default_rng(0)
    shares = of_halves(np.arange(len(share)))
    gaps = abs(np.diff(of_halves(np.stack([rng.permutation(len(share)) for _ in range(PERMUTATIONS)]))))
    return shares[0], (1 + (gaps >= abs(np.diff(shares))).sum()) / (1 + PERMUTATIONS)


def summary(runs: list[store.Run], measured: dict) -> Summary:
    runs = [run for run in runs if run.name in measured]
    if not runs:
        return Summary(estimates.NOT_RUN)
    table, specialised, pictures = [["seed", "colour in tower 0, %", "in tower 1, %", "p"]], 0, {}
    for run in runs:
        of_run = measured[run.name]
        shares, p = by_tower(np.array(of_run["share"]), np.array(of_run["energy"]))
        specialised += p < 0.05 and max(shares) >= 2 * min(shares)
        table.append([str(run.seed), *map(estimates.percent, shares), f"{p:.4f}"])
        kernels = np.frombuffer(base64.b64decode(of_run["kernels"]), np.float16).reshape(11, 11, 3, -1)
        picture = figures.png(figures.conv1_kernels(kernels.astype(np.float32), 2))
        pictures[f"seed_{run.seed}"] = (f"Kernels of conv1, seed {run.seed}.", picture)
    result = f"{specialised} of {len(runs)} runs"
    verdict = estimates.SUPPORTED if specialised == len(runs) else estimates.NOT_DECIDED
    return Summary(verdict, result, f"The towers are specialised in {result}.", table, runs, pictures)


FIG3_KERNELS = Claim(
    name="fig3_kernels",
    title="The first kernels of one tower are colour-agnostic, those of the other colour-specific",
    section="Figure 3",
    figure="every run",
    paper='"the kernels on GPU 1 are largely color-agnostic, while the kernels on GPU 2 are largely color-specific. '
    "This kind of specialization occurs during every run and is independent of any particular random weight "
    'initialization (modulo a renumbering of the GPUs)".',
    log="no entry.",
    notes=(
        "The share of colour is the part of the kernels' energy that remains when the mean of red, green and blue is "
        "subtracted: 0 for grey kernels, two thirds for noise. Weight decay removes the initial noise of the kernels "
        "in 90 epochs, but not in a few, so the initial kernels are subtracted first, times the factor that leaves "
        "the least energy. The towers are specialised if the share of one is at least twice that of the other, and "
        "the difference is that large in less than 5 % of random divisions of the kernels into halves (p). The claim "
        "is supported if they are in every run, and not decided otherwise, because they may specialise later.",
    ),
    cost=COST_ON_PHOTOGRAPHS | {"laptop": "20 minutes on a CPU core, at the full width and 112 pixels"},
    sweep=Sweep(lambda scale: over_seeds({} if scale == "full" else LAPTOP)),
    summary=summary,
    measure=measure,
)

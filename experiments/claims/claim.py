"""What a claim of the paper consists of, and which stored runs count for it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.training import fidelity, run_directory
from configs import imagenette_narrow, two_gpu
from experiments import store, sweep_members

SCALES = ("full", "laptop")
PHOTOGRAPHS = {"full": "imagenet", "laptop": "imagenette"}
COST_ON_PHOTOGRAPHS = {"full": "90 epochs on ImageNet", "laptop": "four to five minutes on a CPU core"}
# Fields in which a stored config may differ from the claim's: directories, and the orientation of images without tags.
MAY_DIFFER = {"dataset.root", "dataset.cache", "dataset.orientation", "init_from"}

Settings = Mapping[str, object]


class DataSet(NamedTuple):
    """A data set as the claims expect it."""

    classes: int
    test_images: int
    root: str  # of the prepared set, in the commands on the results page; "" if there is nothing to prepare


DATA_SETS = {
    "imagenet": DataSet(1000, 50_000, "imagenet256"),
    "imagenet2010": DataSet(1000, 150_000, "imagenet2010"),
    "imagenette": DataSet(10, 3925, "imagenette256"),
    "cifar10": DataSet(10, 10_000, "cifar10_32"),
    "textures": DataSet(20, 400, ""),
}


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the finished runs of a claim show."""

    verdict: str  # one of those in `estimates`
    result: str = ""  # in a few words, for the table of all claims
    statement: str = "Too few runs are finished."
    table: list[list[str]] = dataclasses.field(default_factory=list)  # rows of text; the first is the head
    runs: list[store.Run] = dataclasses.field(default_factory=list)  # those that the summary is based on
    pictures: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)  # {name: (caption, PNG)}


def paper_config(scale: str) -> ConfigDict:
    """The paper's net and recipe on ImageNet, or at a quarter of the width on Imagenette."""
    return {"full": two_gpu, "laptop": imagenette_narrow}[scale].get_config()


class Sweep(NamedTuple):
    """Runs at either scale: a config, and the settings in which each member differs from it."""

    members: Callable[[str], Iterable[Settings]]
    config: Callable[[str], ConfigDict] = paper_config


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, and how it is tested."""

    name: str  # on the command line
    title: str  # the claim in a sentence, without a full stop
    section: str  # of the paper
    figure: str  # the paper's number in a few words
    paper: str  # what else the paper reports; may be empty
    log: str  # the same comparison in the log of 2012
    sweep: Sweep  # the runs that are compared
    summary: Callable[..., Summary]  # from the finished runs and, if there is `measure`, what it returned
    notes: tuple[str, ...] = ()  # paragraphs about the method
    data: dict[str, str] = dataclasses.field(default_factory=PHOTOGRAPHS.copy)  # {scale: a key of DATA_SETS}
    cost: dict[str, str] = dataclasses.field(default_factory=COST_ON_PHOTOGRAPHS.copy)  # of a run, by scale
    measure: Callable[[list[sweep_members.Member]], dict] | None = None  # of the finished members, for a JSON file
    start: Sweep | None = None  # the runs that those of `sweep` start from

    def data_set(self, scale: str) -> DataSet:
        return DATA_SETS[self.data[scale]]

    def command_lines(self) -> Iterator[str]:
        """The commands that test the claim at each scale."""
        for scale in SCALES:
            if self.start:
                config = f"experiments/claims/config.py:{self.name}:{scale}:start"
                yield f"python experiments/sweep.py local --config={config} --workdir=pretrained"
            root = self.data_set(scale).root
            yield f"python -m experiments {self.name} --scale={scale} {f'--root={root} ' * bool(root)}--workdir=DIR"

    def runs_directory(self, scale: str, results: pathlib.Path) -> pathlib.Path:
        return results / "runs" / scale / self.data[scale]

    def measurement_path(self, scale: str, results: pathlib.Path) -> pathlib.Path:
        return results / "measured" / f"{self.name}_{scale}.json"

    def measurement(self, scale: str, results: pathlib.Path) -> dict:
        """What `measure` returned; {} if nothing is stored, or a run that was measured has changed since."""
        return store.load_measurement(self.measurement_path(scale, results), self.runs_directory(scale, results))

    def finished_runs(self, scale: str, results: pathlib.Path) -> list[store.Run]:
        """The stored runs of the sweep, in its order.

        Left out are runs with another config, net or data than the claim has now, or that started from such a run.
        """
        stored = store.load_runs(self.runs_directory(scale, results))
        by_settings = {json.dumps(run.settings): run for run in stored}
        candidates = [by_settings.get(json.dumps(dict(member))) for member in self.sweep.members(scale)]
        return [run for run in candidates if run and self._is_current(run, scale)]

    def _is_current(self, run, scale):
        if run.result["num_examples"] != self.data_set(scale).test_images:
            return False
        if run.start:
            assert self.start
            (member,) = [member for member in self.start.members(scale) if member["seed"] == run.seed]
            start_net = run.start.get("net", {})
            if not _same(run.path, run.start["config"], start_net, self.start.config(scale), member):
                return False
        return _same(run.path, run.config, run.net, self.sweep.config(scale), run.settings)


def _same(path, stored, stored_net, config, member):
    """Whether a config and a net that are stored in `path` are those of a config with the settings of a member."""
    config.update_from_flattened_dict(member)
    config = fidelity.resolve(config)
    then, now = (json.loads(each.to_json()) for each in (fidelity.resolve(settings.merge(stored, path)), config))
    return not settings.changes(then, now, MAY_DIFFER) and not run_directory.corrections(stored_net, config)

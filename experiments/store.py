"""The directory `results`: finished runs of the claims and measurements of trained nets, as JSON files.

  runs/SCALE/DATA_SET/NAME.json     a run: its config, commit, result and metrics
  measured/CLAIM_SCALE.json         what a claim's `measure` returned, and the runs that it measured

Nothing in them depends on the directories of the data and the runs, or on the speed of the machine.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from alexnet_jax.training import metrics, run_directory
from experiments import sweep_members

# Of the file of a run; see `files.check_shape`.
SHAPE = {
    "commit": str,
    "settings": {"seed": int},
    "config": {str: object},
    "result": sweep_members.RESULT | {"step": int, "num_examples": int},
    "metrics": [{"split": str, "epoch": float, "top1_error": float}],
    "net?": dict,
    "start?": {"commit?": str, "config?": dict, "net?": dict, "result?": sweep_members.RESULT},
    "data?": {"listing?": str},
}
COMMITTED = pathlib.Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished member of a claim's sweep."""

    path: pathlib.Path  # of its JSON file
    commit: str  # those of all starts; + marks uncommitted changes
    settings: dict  # the fields in which it differs from the claim's config
    config: dict  # all fields
    result: dict  # what `train_and_evaluate` returned
    metrics: list[dict] = dataclasses.field(repr=False)  # the lines of metrics.jsonl without the speed
    net: dict = dataclasses.field(
        default_factory=dict
    )  # of `run_directory.record`; {} from versions that recorded none
    start: dict = dataclasses.field(default_factory=dict)  # commit, config, net, result of the run it started from
    data: dict = dataclasses.field(default_factory=dict)  # prepare.json of the data set; {} if it is not prepared

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def data_set(self) -> str:
        return self.path.parent.name

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    def errors(self, split: str) -> Iterator[tuple[float, ...]]:
        """Two tuples: epochs, and top-1 errors as fractions, of `train` or `eval`.

        A training error is the mean over the steps since the previous log. The last one is left out if it covers fewer
        than half as many steps as the first.
        """
        lines = [line for line in self.metrics if line["split"] == split]
        if split == "train" and len(lines) > 1 and lines[-1]["epoch"] - lines[-2]["epoch"] < lines[0]["epoch"] / 2:
            lines.pop()
        return zip(*[(line["epoch"], line["top1_error"]) for line in lines], strict=True)


def load_runs(directory: pathlib.Path) -> list[Run]:
    """All runs in a directory, sorted by the names of their files. Raises UserError if a file is damaged."""
    return [_load_run(path) for path in sorted(directory.glob("*.json"))]


def _load_run(path):
    try:
        run = Run(path, **files.read_json(path, SHAPE))
        numbers = [run.result[view][error] for view, error in sweep_members.ERRORS]
        numbers += [run.seed, run.result["step"], run.result["num_examples"]]
        valid = min(numbers) >= 0 and {line["split"] for line in run.metrics} == {"train", "eval"}
        valid &= not run.start or run.start.keys() >= {"commit", "config", "result"}
    except TypeError:  # an unknown field
        valid = False
    if not valid:
        raise UserError(f"{path}: is not what this program wrote; restore or remove it")
    return run


def store_run(member: sweep_members.Member, directory: pathlib.Path) -> None:
    """Writes the file of a finished member of a claim's sweep."""
    config = files.read_json(member.workdir / "config.json", {"dataset": {"root": str}, "init_from": str})
    prepared = pathlib.Path(config["dataset"]["root"]) / "prepare.json"
    stored = {
        "commit": sweep_members.commits(member.workdir),
        "settings": member.settings,
        "config": _without_parents(config),
        "net": run_directory.read_record(member.workdir),
        "result": member.result,
        "start": _start(pathlib.Path(config["init_from"])) if config["init_from"] else {},
        "data": files.read_json(prepared) if prepared.exists() else {},
    }
    lines = ",\n  ".join(map(json.dumps, read_metrics(member.workdir)))
    files.make_directory(directory)
    with files.whole(directory / f"{member.workdir.name}.json") as file:
        file.write(json.dumps(stored, indent=1)[:-2] + f',\n "metrics": [\n  {lines}\n ]\n}}\n')


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of a run's metrics.jsonl without the speed, which differs each time."""
    lines = metrics.read(workdir / "metrics.jsonl")
    for line in lines:
        line.pop("images_per_second", None)
    return lines


def _start(workdir):
    """What is stored of the run in a directory that another one started from."""
    return {
        "commit": sweep_members.commits(workdir),
        "config": _without_parents(files.read_json(workdir / "config.json")),
        "net": run_directory.read_record(workdir),
        "result": files.read_json(workdir / "result.json"),
    }


def _without_parents(config):
    """A config with names of directories in place of their paths."""
    root, start = (pathlib.Path(path).name for path in (config["dataset"]["root"], config["init_from"]))
    return config | {"dataset": config["dataset"] | {"root": root}, "init_from": start}


def store_measurement(measured: dict, runs: Iterable[Run], path: pathlib.Path) -> None:
    """Writes what a claim's `measure` returned for some runs, one key a line, and the project's commit."""
    measured = measured | {"commit": sweep_members.commit(), "runs": {run.name: _digest(run.path) for run in runs}}
    files.make_directory(path.parent)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(measured.items())]
    with files.whole(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def load_measurement(path: pathlib.Path, runs_directory: pathlib.Path) -> dict:
    """The content of a file of `store_measurement`; {} if there is none, or a run in it has changed since."""
    measured = files.read_json(path, {"commit?": str, "runs?": {str: str}}) if path.exists() else {}
    digests = measured.get("runs", {})
    return measured if all(_digest(runs_directory / f"{run}.json") == digest for run, digest in digests.items()) else {}


def _digest(path):
    return hashlib.sha256(files.read_bytes(path)).hexdigest()[:16] if path.exists() else None

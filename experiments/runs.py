"""Finished trainings as they are kept: a JSON file for each, of what was run, by which commit, and what it measured."""

import dataclasses
import json
import pathlib

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from alexnet_jax.training import settings
from experiments import sweep

COMMITTED = pathlib.Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training of a claim's sweep.

    Attributes:
      path: of its file.
      commit: of the project when it was started, and of every later start, with a + where files had been changed.
      settings: in which it differs from the claim's config.
      config: all fields.
      net: what the config meant to the version that ran it, as `settings.record` has it; {} if that made no record.
      result: what `train_and_evaluate` returned.
      metrics: the lines of metrics.jsonl, but for the speed.
      start: commit, config, net and result of the run that it started from, if it did.
      data: what the images were prepared from, as prepare.json has it; {} of images that were not.
    """

    path: pathlib.Path
    commit: str
    settings: dict
    config: dict
    result: dict
    metrics: list = dataclasses.field(repr=False)
    net: dict = dataclasses.field(default_factory=dict)
    start: dict = dataclasses.field(default_factory=dict)
    data: dict = dataclasses.field(default_factory=dict)

    @property
    def seed(self):
        return self.settings["seed"]

    def errors(self, split):
        """Epochs and top-1 errors, as fractions, of a split: `train` or `eval`.

        A training error is a mean over the steps since the one before; the last one counts if it is of as many as half
        of the others.
        """
        lines = [line for line in self.metrics if line["split"] == split]
        if split == "train" and len(lines) > 1 and lines[-1]["epoch"] - lines[-2]["epoch"] < lines[0]["epoch"] / 2:
            lines.pop()
        return zip(*[(line["epoch"], line["top1_error"]) for line in lines], strict=True)


def directory(results, scale, data):
    """Where the trainings on a data set are kept among some results."""
    return results / "runs" / scale / data


def load(results, scale, data):
    """All finished trainings on a data set, by the names of their files. Raises UserError if one is no such file."""
    found = []
    for path in sorted(directory(results, scale, data).glob("*.json")):
        try:
            run = Run(path, **files.read_json(path))
            numbers = [run.result[way][error] for way, error in sweep.ERRORS]
            numbers += [run.seed, run.result["step"], run.result["num_examples"]]
            whole = min(numbers) >= 0 and {line["split"] for line in run.metrics} == {"train", "eval"}
        except (TypeError, KeyError):
            whole = False
        if not whole:
            raise UserError(f"{path}: is not what this program wrote; restore or remove it")
        found.append(run)
    return found


def keep(member, path):
    """Writes the file of a finished member of a claim's sweep into a directory.

    Nothing in it depends on where the data and the directory of the run were, or on the speed of the machine.
    """
    path = path / f"{member.workdir.name}.json"
    config = files.read_json(member.workdir / "config.json")
    start = _start(pathlib.Path(config["init_from"])) if config["init_from"] else {}
    prepared = pathlib.Path(config["dataset"]["root"]) / "prepare.json"
    config["dataset"]["root"] = pathlib.Path(config["dataset"]["root"]).name
    config["init_from"] = pathlib.Path(config["init_from"]).name
    metrics = [json.loads(line) for line in (member.workdir / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        line.pop("images_per_second", None)
    kept = {
        "commit": _commits(member.workdir),
        "settings": member.settings,
        "config": config,
        "net": settings.read_record(member.workdir),
        "result": member.result,
        "start": start,
        "data": files.read_json(prepared) if prepared.exists() else {},
    }
    lines = ",\n  ".join(json.dumps(line) for line in metrics)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as file:
        file.write(json.dumps(kept, indent=1)[:-2] + f',\n "metrics": [\n  {lines}\n ]\n}}\n')


def _start(workdir):
    """What is kept of the run that another one started from."""
    config, result = (files.read_json(workdir / f"{name}.json") for name in ("config", "result"))
    config["dataset"]["root"] = pathlib.Path(config["dataset"]["root"]).name
    return {"commit": _commits(workdir), "config": config, "net": settings.read_record(workdir), "result": result}


def _commits(workdir):
    path = workdir / "commits.txt"
    return ", ".join(dict.fromkeys(path.read_text().split())) if path.exists() else "unknown"

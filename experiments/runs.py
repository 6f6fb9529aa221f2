"""Finished trainings as they are kept: what was run by which commit, and all that it measured, a JSON file for each."""

import json
import pathlib

from alexnet_jax import files

RUNS = pathlib.Path(__file__).parent / "results" / "runs"


def keep(member, scale, data):
    """Writes the file of a finished member of a claim's sweep: `commit`, `settings`, `config`, `result`, `metrics`.

    Nothing in it depends on where the data and the directory of the run were, or on the speed of the machine.
    """
    config = files.read_json(member.workdir / "config.json")
    config["dataset"]["root"] = pathlib.Path(config["dataset"]["root"]).name
    metrics = [json.loads(line) for line in (member.workdir / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        line.pop("images_per_second", None)
    kept = {
        "commit": ", ".join(dict.fromkeys((member.workdir / "commits.txt").read_text().split())),
        "settings": member.settings,
        "config": config,
        "result": member.result,
    }
    lines = ",\n  ".join(json.dumps(line) for line in metrics)
    directory = RUNS / scale / data
    directory.mkdir(parents=True, exist_ok=True)
    with files.whole(directory / f"{member.workdir.name}.json") as file:
        file.write(json.dumps(kept, indent=1)[:-2] + f',\n "metrics": [\n  {lines}\n ]\n}}\n')

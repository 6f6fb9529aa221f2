"""The members of a sweep: what a config with a function sweep() yields, and the directory of each run."""

import ctypes
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from alexnet_jax import UserError, settings
from alexnet_jax.runtime import config_file, files
from alexnet_jax.training import fidelity, run_directory

PROGRAM = ("-m", "alexnet_jax.main")
LINUX = sys.platform == "linux"
VIEWS, NAMES = ("center", "ten_crop"), ("top1_error", "top5_error")
ERRORS = [(view, error) for view in VIEWS for error in NAMES]
RESULT = {
    view: dict.fromkeys(NAMES, float) for view in VIEWS
}  # what sweeps need of result.json; see `files.check_shape`


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    config: str  # FILE or FILE:WORD, for --config
    defaults: dict  # every field of its get_config()
    overrides: tuple[str, ...]  # --config.FIELD=VALUE, for all members
    settings: dict  # of this member only
    workdir: pathlib.Path

    @property
    def description(self) -> dict:
        """What determines the result, for run.json. Not the config's path: the file may move."""
        return json.loads(json.dumps({"config": self.defaults, "overrides": self.overrides, "settings": self.settings}))

    @property
    def command(self) -> list[str]:
        program = [sys.executable, *PROGRAM, f"--config={self.config}", f"--workdir={self.workdir}"]
        return [*program, *self.overrides, *(f"--config.{field}={value}" for field, value in self.settings.items())]

    @property
    def state(self) -> str:
        """finished, damaged, failed, started or waiting; `damage` explains damaged.

        Raises:
          UserError: the directory holds a run with other settings.
        """
        path = self.workdir / "run.json"
        if not path.exists():
            return "waiting"
        if self.damage:
            return "damaged"
        stored, defaults = files.read_json(path), json.loads(settings.defaults().to_json())
        if isinstance(stored.get("config"), dict):
            # Settings that were added since then had no other values than their defaults.
            stored["config"] = dict(settings.flatten(defaults)) | stored["config"]
        if changed := settings.changes(stored, self.description):
            raise UserError(f"{self.workdir}: holds a run of other settings ({changed}); use another --workdir")
        if self.result:
            return "finished"
        return "failed" if (self.workdir / "failed").exists() else "started"

    @property
    def damage(self) -> str:
        """Why the run in the directory can be neither counted nor continued; '' if it can."""
        try:
            files.read_json(self.workdir / "run.json")
            if self._read_result():
                check_net(self.workdir)
        except UserError as error:
            return str(error)
        return ""

    @property
    def result(self) -> dict | None:
        """The content of result.json; None if there is none yet, or the directory is damaged."""
        return None if self.damage else self._read_result()

    def _read_result(self):
        path = self.workdir / "result.json"
        return files.read_json(path, RESULT) if path.exists() else None

    @property
    def in_use(self) -> bool:
        """Whether a process still uses the directory, for example after its sweep was killed."""
        try:
            files.check_unlocked(self.workdir / "lock")
        except UserError:
            return True
        return False

    def start(self, environment: Mapping[str, str]) -> subprocess.Popen:
        """Starts its process in the environment of this one, with these variables added."""
        files.make_directory(self.workdir)
        files.write_json(self.workdir / "run.json", self.description)
        (self.workdir / "failed").unlink(missing_ok=True)
        with files.append(self.workdir / "commits.txt") as file:
            print(commit(), file=file)
        with files.append(self.workdir / "log.txt", "ab") as log:
            return subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                start_new_session=True,  # so that Ctrl-C does not reach it twice: this program forwards it
                preexec_fn=_end_with_parent if LINUX else None,
            )

    def end(self, status: int, interrupted: bool) -> str:
        """Returns, and records, what an exit status means: finished, interrupted or failed."""
        if status == 0:
            return "finished"
        if interrupted and (status in (128 + signal.SIGINT, 128 + signal.SIGTERM) or status < 0):
            return "interrupted"
        with files.whole(self.workdir / "failed") as file:
            file.write(f"exit status {status}\n")
        return "failed"

    def last_line(self) -> str:
        lines = files.read_bytes(self.workdir / "log.txt").decode(errors="replace").splitlines()
        return lines[-1] if lines else ""


def _end_with_parent():
    """Makes the kernel send SIGTERM to this process when its parent dies, even by kill -9."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def check_net(workdir: pathlib.Path) -> None:
    """Raises UserError if a run was finished with another version of its net or schedule."""
    config = fidelity.read(workdir / "config.json")
    if corrected := run_directory.corrections(run_directory.read_record(workdir), config):
        raise UserError(
            f"{workdir}: was finished with another version of this net or schedule ({corrected}); use another "
            "--workdir, or remove this directory to train it again"
        )


def commit() -> str:
    """The commit of the project, with a + if its Python files differ from it; 'unknown' without git."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent.parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "*.py"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + "+" * bool(changed)


def commits(workdir: pathlib.Path) -> str:
    """The commits at the starts of a run, without repetitions, separated by commas."""
    path = workdir / "commits.txt"
    return ", ".join(dict.fromkeys(files.read_text(path).split())) if path.exists() else "unknown"


def read_members(config: str, workdir: pathlib.Path, overrides: Sequence[str]) -> list[Member]:
    """The members of a config, FILE or FILE:WORD.

    Raises:
      UserError: the config cannot be run, or has no members, two equal ones, or one with an unknown field.
    """
    path, *word = config.split(":", 1)
    fields, all_settings = config_file.run(config, _read)
    if all_settings is None:
        raise UserError(f"--config={path}: has no sweep(); see --help")
    if not all_settings:
        raise UserError(f"--config={path}: sweep() yields no member")
    defaults, members = dict(settings.flatten(fields)), {}
    for member in all_settings:
        try:
            json.dumps(member)
        except TypeError as error:
            raise UserError(f"--config={path}: sweep() yields {member}: {error}; use plain numbers and text") from error
        for field in member:
            if field not in defaults:
                raise UserError(f"--config={path}: sweep() sets {field!r}, which the config does not have")
        name = directory_name(member)
        if name in members:
            raise UserError(f"--config={path}: sweep() yields {member} twice")
        absolute = ":".join([str(pathlib.Path(path).resolve()), *word])
        members[name] = Member(absolute, defaults, tuple(overrides), member, workdir / name)
    return list(members.values())


def _read(module, *word):
    """What get_config() and sweep() of a config file return; None if it has no sweep()."""
    fields = module.get_config(*word).to_dict()
    return fields, [dict(member) for member in module.sweep(*word)] if hasattr(module, "sweep") else None


def directory_name(member_settings: dict) -> str:
    """For example `seed=0,model.width=0.5`; shortened, with a hash, if too long or with unsafe characters."""
    full = ",".join(f"{field}={value}" for field, value in member_settings.items()) or "default"
    safe = re.sub(r"[^\w.,=+-]", "_", full)[:120]
    return safe if safe == full else f"{safe}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"

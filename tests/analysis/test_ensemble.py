"""Trained nets whose training still runs."""

import jax
import numpy as np
import pytest

from alexnet_jax import UserError, pretrained
from alexnet_jax.analysis import ensemble
from tests.fixtures.weight_files import some_weights


@pytest.fixture
def run(tmp_path):
    pretrained.to_workdir(some_weights("two_gpu"), tmp_path / "run")
    return tmp_path / "run"


def replace_checkpoint(run):
    """As a training that removes its oldest checkpoint after it has saved another one."""
    (path,) = (run / "checkpoints").iterdir()
    path.rename(path.with_name(str(int(path.name) + 1)))


def test_a_checkpoint_that_a_training_replaced_is_not_missed(run, monkeypatch):
    before = ensemble.load([run])
    member = ensemble.read(run)
    replace_checkpoint(run)
    after, params = ensemble.restore_newest(member, before.mesh)
    assert after.step == member.step + 1
    jax.tree.map(np.testing.assert_array_equal, params, before.params[0])

    # It is replaced after its step was found, before its metadata are read.
    replaced = []
    metadata = ensemble.checkpoint.Checkpoints.metadata

    def replace_first(self, step):
        if not replaced:
            replaced.append(step)
            replace_checkpoint(run)
        return metadata(self, step)

    monkeypatch.setattr(ensemble.checkpoint.Checkpoints, "metadata", replace_first)
    assert ensemble.read(run).step == after.step + 1 == replaced[0] + 1


@pytest.mark.parametrize("damage", ["", "[" * 100_000, "[]", '{"custom_metadata": {"data": 3}}'])
def test_a_damaged_checkpoint_that_nothing_replaced_is_named(damage, run):
    (run / "checkpoints" / "12" / "_CHECKPOINT_METADATA").write_text(damage)
    message = (
        r"12: cannot be read \(.*\); restore or remove it|12/_CHECKPOINT_METADATA: is not .*; remove the directory of"
    )
    with pytest.raises(UserError, match=message):
        ensemble.load([run])

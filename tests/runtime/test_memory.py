"""The memory that this process may use."""

import os

import numpy as np
import pytest

from alexnet_jax.runtime import memory


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ({}, 4096),
        ({"a/b": "max", "a": "max"}, 4096),
        ({"a/b": "1000"}, 1000),
        ({"a/b": "3000", "a": "2000", "a/c": "10"}, 2000),  # a group's limit holds for those in it, too
        ({"": "500"}, 500),
        ({"a/b": "5000"}, 4096),
    ],
)
def test_the_limit_of_a_container_or_a_job_counts(limits, allowed, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 4}[name])
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("1:cpu:/elsewhere\n0::/a/b\n")
    for group, limit in limits.items():
        (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / group / "memory.max").write_text(f"{limit}\n")
    assert memory.of_host() == allowed


def test_a_machine_without_control_groups_has_all_its_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "none")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "none")
    assert memory.of_host() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_processes_of_this_host_are_counted(monkeypatch):
    monkeypatch.setattr(memory.multihost_utils, "process_allgather", lambda own: np.array([own, own + 1, own, own]))
    assert memory.processes_on_host() == 3

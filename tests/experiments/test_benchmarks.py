"""What the benchmarks count, and what they rely on; the figures themselves are for a quiet machine."""

import json
import os
import subprocess
import sys

import pytest

from experiments.benchmarks import communication, measured, scaling, two_gpu_step, versions


def test_operations_of_a_step():
    # Two for each of 724,406,816 multiply-accumulates, three times; but no gradient of conv1's input, 105,415,200.
    assert two_gpu_step.operations() == 2 * (3 * 724_406_816 - 105_415_200)


def test_bytes_received_in_collectives_of_four_devices():
    # Three parts of a gather's result; three times the result of a scatter, to add up; both, for a quarter, in a sum.
    assert communication.received("all-gather", 400, 4) == 300
    assert communication.received("reduce-scatter", 100, 4) == 300
    assert communication.received("all-reduce", 400, 4) == 600


def test_the_model_of_a_step_adds_up_compute_and_bytes():
    links = {"host_bandwidth": 1e7, "tower_bandwidth": 1e6, "row_bandwidth": 1e8}
    machine = scaling.Machine("", fixed=1.0, per_image=0.1, latency=0.01, **links)
    assert machine.step(rows=4, batch_size=32) == pytest.approx(
        {
            "compute": 1.0 + 0.1 * 8,
            "input": 256 * 256 * 3 * 8 / 1e7,
            "towers": 7 * 0.01 + (121_344 + 113_152) * 8 / 1e6,
            "gradients": 6 * 0.01 + 2 * (3 / 4) * 130_124_460 / 1e8,
        }
    )
    assert machine.step(rows=1, batch_size=8)["gradients"] == 0


def test_the_fit_finds_the_line_that_made_the_times():
    steps = {size: 0.05 + 0.01 * size for size in (16, 64)}
    gathers = {size: 1e-5 + size / 2 / 4e9 for size in (4096, 1 << 20, 1 << 26)}
    expected = {"fixed": 0.05, "per_image": 0.01, "latency": 1e-5, "bandwidth": 4e9}
    assert scaling.fit(steps, gathers) == pytest.approx(expected)


def test_the_gpus_of_2012_reached_a_third_of_their_peak_and_took_their_days():
    assert scaling.utilisation_of_2012() == pytest.approx(0.317, abs=0.001)
    (gtx_580,) = (m for m in scaling.machines({"fixed": 0.0, "per_image": 1.0}) if m.name.startswith("GTX"))
    seconds_of_image = sum(gtx_580.step(rows=1, batch_size=128).values()) / 128
    assert 5.5 < seconds_of_image * 1_281_167 * 90 / 86400 < 6  # section 1: "five to six days"


def test_an_interpreter_that_cannot_run_the_project_is_named(run_command):
    status, _, error = run_command(versions.main, sys.executable, "nowhere/python")
    assert status == 1 and "nowhere/python does not run this project; install it there" in error


def test_an_interpreter_is_not_compared_with_itself(run_command):
    status, _, error = run_command(versions.main, sys.executable, sys.executable)
    assert status == 1 and "name two or more PYTHONs, each once" in error


KEPT = """
import resource
import numpy as np
from alexnet_jax.runtime import command_line

command_line.keep_freed_memory()

def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(64 << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touch()
print(touch())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "0"}, False)])
def test_freed_memory_is_used_again_without_new_pages_unless_told_otherwise(environment, kept):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", KEPT]
    faults = int(subprocess.run(command, env=inherited | environment, check=True, capture_output=True).stdout)
    assert (faults < 16) is kept  # of 64 MB: 32 huge pages, if all are huge


def test_a_measured_step_is_shown_beside_its_least_time():
    results = {
        "rates": {"bandwidth": 2e12, "operations": {"bfloat16": 500e12}},
        "speed, alexnet_jax_cached, bfloat16, batch 128": {"images_per_second": {"train": 64_000.0}},  # 2 ms
        "roofline, bfloat16, batch 128": {"bytes": 3e9, "operations": 5e11},  # 1.5 and 1 ms
        "roofline, bfloat16, batch 512": {"failed": "out of memory"},
    }
    for kind, checksums in (("as trained", ("a", "b")), ("deterministic", ("c", "c"))):
        for process, checksum in zip((1, 2), checksums, strict=True):
            results[f"bits, {kind}, process {process}"] = {"checksums": [checksum, checksum]}
    assert list(measured.conclude(results)) == [
        "bfloat16, batch 128: 2.00 ms a step; memory 1.50, products 1.00 ms: 50% of the rate of matrix products",
        "bits, as trained: divided into other calls the same; in another process DIFFER",
        "bits, deterministic: divided into other calls the same; in another process the same",
    ]


def test_what_fails_or_has_no_time_left_is_named_and_the_rest_is_written(monkeypatch, tmp_path):
    def failing(seconds):
        raise subprocess.CalledProcessError(1, "pytest", "1 failed", "no memory")

    monkeypatch.setattr(measured, "tests", failing)
    monkeypatch.setattr(measured, "child", lambda *args, **variables: lambda seconds: {"kind": args[0]})
    file = tmp_path / "measured.json"
    monkeypatch.setattr(sys, "argv", ["measured", "--part=tests,rates,training", f"--output={file}"])
    measured.main()
    results = json.loads(file.read_text())["results"]
    assert results["tests"]["output"] == ["1 failed", "no memory"]
    assert results["rates"] == {"kind": "rates"} and results["training"] == {"left_out": "no --root"}

    clock = iter([0.0, *[601.0] * 9])
    monkeypatch.setattr(measured.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "argv", ["measured", "--part=rates", f"--output={file}"])
    measured.main()
    assert json.loads(file.read_text())["results"] == {"rates": {"left_out": "10 minutes were over"}}


def test_an_unknown_part_is_refused(run_command):
    status, _, error = run_command(measured.main, "--part=speed,heat")
    assert status != 0 and "'heat' is none of tests, rates" in error

"""The committed pages, and the diagram on them."""

import json
import pathlib
import re
import shutil

import pytest

from alexnet_jax.analysis import figures
from alexnet_jax.model import nets
from experiments import results_page

EXPERIMENTS = pathlib.Path(results_page.__file__).parent


def test_the_diagram_shows_what_crosses_between_the_towers():
    # What the compiled program receives, see test_sharding: 121,344 bytes of float32.
    texts = [text.get_text() for text in figures.diagram(nets.NETS["two_gpu"]).axes[0].texts]
    received = [int(text.split()[1].replace(",", "")) for text in texts if text.startswith("all_gather")]
    assert len(received) == 4 and 4 * sum(received) == 121_344
    assert sum(text.startswith("conv2") for text in texts) == 2
    one = [text.get_text() for text in figures.diagram(nets.NETS["one_gpu"]).axes[0].texts]
    assert not any("all_gather" in text for text in one)


def without_pictures(page):
    return re.sub(r"data:image/png;base64,[^\"]*", "", page)


@pytest.mark.slow
def test_the_committed_pages_are_those_of_the_committed_results(tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("runs", "measured"):
        shutil.copytree(EXPERIMENTS / "results" / name, tmp_path / "results" / name)
    results_page.write(tmp_path)
    assert (tmp_path / "RESULTS.md").read_text() == (EXPERIMENTS / "RESULTS.md").read_text()
    # Another version of matplotlib draws other bytes.
    pages = [(path / "report.html").read_text() for path in (tmp_path, EXPERIMENTS)]
    assert without_pictures(pages[0]) == without_pictures(pages[1])
    pictures = [
        sorted(p.name for p in (path / results_page.PICTURES).glob("*.png")) for path in (tmp_path, EXPERIMENTS)
    ]
    assert pictures[0] == pictures[1]
    table = re.search(r"^\| claim .*?\n\n", (EXPERIMENTS / "RESULTS.md").read_text(), re.DOTALL | re.MULTILINE)[0]
    assert table in (EXPERIMENTS.parent / "README.md").read_text()
    for path in [
        *(EXPERIMENTS / "results").glob("runs/*/*/*.json"),
        *(EXPERIMENTS / "results").glob("measured/*.json"),
    ]:
        commit = json.loads(path.read_text())["commit"]
        assert re.fullmatch(r"[0-9a-f]{40}(, [0-9a-f]{40})*", commit), path  # without a +: of unchanged files

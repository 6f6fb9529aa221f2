"""The page of a run, images that a net takes to be alike, and pages of text, tables and pictures."""

import base64
import html
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from alexnet_jax import report, train
from alexnet_jax.analysis import ensemble, figures, pages, retrieval
from alexnet_jax.data import datasets
from tests.references import net_numbers, numpy_net


def test_a_run_its_page_and_its_features(config, tmp_path, run_command):
    workdir = tmp_path / "run"
    result = train.train_and_evaluate(config, workdir)
    command = [sys.executable, "-m", "alexnet_jax.report", f"--workdir={workdir}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{workdir / 'report.html'}\n"), done.stderr
    page = (workdir / "report.html").read_text()
    assert f"11 validation images of folder {config.dataset.root}, 2 classes" in page
    for way in ("center", "ten_crop"):
        assert f"<td>{result[way]['loss']:.4f}</td><td>{result[way]['top1_error']:.2%}</td>" in page
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]
    wrong = result["ten_crop"]["top1_error"] > 0
    assert len(pictures) == 3 + wrong and all(data.startswith(b"\x89PNG") for data in pictures)
    assert run_command(report.main, f"--workdir={workdir}", "--split=train")[0] == 0
    assert "26 train images" in (workdir / "report.html").read_text()
    metrics = workdir / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 7, "ep')  # as of a machine that lost its power
    assert run_command(report.main, f"--workdir={workdir}")[0] == 0
    metrics.write_text('{"step": 7}\n')
    status, _, error = run_command(report.main, f"--workdir={workdir}")
    assert status == 1 and error.count("\n") == 1 and f"{metrics}: cannot be read" in error
    metrics.unlink()  # as of weights that were read from a file
    assert run_command(report.main, f"--workdir={workdir}")[0] == 0

    for arguments, message in {
        (f"--workdir={tmp_path}",): "holds no trained net",
        (f"--workdir={workdir}", "--split=nope"): "no such directory",
        (): "the following arguments are required: --workdir",
    }.items():
        status, _, error = run_command(report.main, *arguments)
        assert status == 1 and message in error and error.count("\n") == 1

    trained = ensemble.load([workdir])
    source, _ = datasets.find("folder", config.dataset.root).load("val", trained.nets[0].stored_size)
    found = retrieval.features(trained, source, batch_size=4)
    described = net_numbers.describe("two_gpu", width=1 / 16, image_size=63, num_classes=2)
    images = np.stack([source[i][0] for i in range(len(source))])
    border = (images.shape[1] - 63) // 2
    x = images[:, border : border + 63, border : border + 63] - np.asarray(trained.means[0])
    outputs = numpy_net.forward(described, jax.device_get(trained.params[0]), x.astype(np.float64))[1]
    np.testing.assert_allclose(found, outputs["fc7"], atol=1e-3)


def test_nearest_by_euclidean_distance():
    rng = np.random.default_rng(0)
    queries, others = rng.normal(size=(130, 8)), rng.normal(size=(50, 8))
    distances = np.linalg.norm(queries[:, None] - others, axis=2)
    found = retrieval.nearest(queries.astype(np.float32), others.astype(np.float32), 5)
    np.testing.assert_array_equal(found, np.argsort(distances, axis=1)[:, :5])


def test_texts_are_escaped_and_marked_up():
    blocks = [
        ("title", "A <b> & `c`"),
        ("text", "**bold** and [a link](there)"),
        ("table", [["a|b", "c"], ["1 < 2", "3"]]),
        ("code", "x < y"),
        ("picture", "name", "a caption", b"PNG"),
    ]
    page = pages.to_html(blocks)
    assert "<h1>A &lt;b&gt; &amp; <code>c</code></h1>" in page
    assert '<p><b>bold</b> and <a href="there">a link</a></p>' in page
    assert "<th>a|b</th>" in page and "<td>1 &lt; 2</td>" in page and "<pre>x &lt; y</pre>" in page
    assert f'src="data:image/png;base64,{base64.b64encode(b"PNG").decode()}"' in page
    markdown = pages.to_markdown(blocks, "pictures")
    assert "| a\\|b | c |\n| --- | --- |\n| 1 < 2 | 3 |" in markdown
    assert "![a caption](pictures/name.png)" in markdown and "```sh\nx < y\n```" in markdown


NAMES = [
    "[here](javascript:alert(1))",
    "![picture](https://example.com/a.png)",
    "<script>alert(1)</script>",
    "`code`",
    "**bold** __bold__ _a_ a_b ~~struck~~ $x$",
    "a|b \\| c",
    "&lt; &#60; \\[a](b)",
    "# no heading",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_in_html_and_in_markdown(name):
    blocks = [("title", pages.literal(name)), ("table", [["a"], [pages.literal(name)]])]
    page = pages.to_html(blocks)
    for tag in ("title", "h1", "td"):
        (shown,) = re.findall(f"<{tag}>(.*?)</{tag}>", page)
        assert html.unescape(shown) == name and "<" not in shown
    line = pages.to_markdown(blocks, "pictures").splitlines()[-1]
    assert line.startswith("| ") and line.endswith(" |")
    cell = line[2:-2]
    assert html.unescape(cell) == name
    # CommonMark: a character reference is no markup, and neither is a _ between letters.
    assert not re.search(r"[`*\[\]<>\\|~$!:]|&(?!#\d+;)|\b_|_\b", cell)


def test_control_characters_of_a_name_are_escapes():
    assert html.unescape(pages.literal("a\nb\u202ec\x1b")) == "a\\nb\\u202ec\\x1b"
    assert pages.code("a`b\n") == "`a'b\\n`"


def test_links_lead_to_pages_only():
    for target in ("https://example.com/a?b=1#c", "http://example.com", "results/runs", "#part"):
        assert f'<a href="{target}">a</a>' in pages.to_html([("title", f"[a]({target})")])
    for target in ("javascript:alert(1)", "JAVASCRIPT:x", " data:text/html,x", "vbscript:x", "x:y"):
        assert "<a " not in pages.to_html([("title", f"[a]({target})")])


@pytest.mark.parametrize(
    "name", ["$a", "$\\frac{$", "a\nb\x00\x1b[31m", "\u4e2d\u6587", "\ud800", "x" * 5000, "$" * 5000, ""]
)
def test_figures_show_any_name(name):
    pixels = np.zeros((8, 8, 3), np.uint8)
    predictions = [{"class": name, "name": name, "probability": 0.5}]
    for figure in (
        figures.mistakes([(pixels, name, predictions)]),
        figures.retrieval([(pixels, name, predictions, [pixels])]),
    ):
        assert figures.png(figure).startswith(b"\x89PNG")
        texts = [text for axes in figure.axes for text in [axes.title, axes.texts[0] if axes.texts else axes.title]]
        assert all(len(text.get_text()) <= figures.LONGEST and text.get_text().isprintable() for text in texts)

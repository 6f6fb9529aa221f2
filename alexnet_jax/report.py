"""A report of a training run: its net, curves, kernels, errors by class, and its worst mistakes with their pictures.

  python -m alexnet_jax.report --workdir=DIR

Writes DIR/report.html, one self-contained page.
"""

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax.analysis import ensemble, inference, pages, run_page
from alexnet_jax.runtime import files, text


@command_line.one_line_errors("nothing was written")
def main():
    parser = command_line.Parser("alexnet_jax.report", __doc__)
    parser.add_argument("--workdir", required=True, help="the directory of a run")
    command_line.add_data_flags(parser)
    args = parser.parse()
    command_line.set_up_jax()
    trained = ensemble.load([args.workdir])
    path = trained.members[0].workdir / "report.html"
    name, root, split, source = inference.load_split(trained, args.dataset, args.root, args.split)
    page = pages.to_html(run_page.blocks(trained, f"{split} images of {name} {root}".rstrip(), source))
    with files.whole(path) as file:
        file.write(page)
    text.print_line(path)


if __name__ == "__main__":
    main()

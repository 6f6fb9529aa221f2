"""Imports AlexNets of other programs as runs of this one, and exports runs as files for other programs.

  python -m alexnet_jax.pretrained --read=FILE --workdir=DIR
  python -m alexnet_jax.pretrained --workdir=DIR --write=FILE

Reads torchvision's `alexnet` (.pth), the ONNX model zoo's bvlcalexnet and caffenet (.onnx), bvlc_alexnet.npy, and the
files that it writes itself: .safetensors, .onnx and .pth. The content of a file decides, not its name. --read makes a
directory for alexnet_jax.evaluate, alexnet_jax.predict and --config.init_from, with the mean and the scale of pixels
that the weights were trained with.
"""

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax.model import counts
from alexnet_jax.runtime import text
from alexnet_jax.weights.formats import read, suffixes, write
from alexnet_jax.weights.runs import from_workdir, to_workdir
from alexnet_jax.weights.weights import Weights

__all__ = ["Weights", "from_workdir", "read", "to_workdir", "write"]


@command_line.one_line_errors("nothing was written")
def main():
    parser = command_line.Parser("alexnet_jax.pretrained", __doc__)
    parser.add_argument("--workdir", required=True, help="the directory of a run; with --read, a new one")
    parser.add_argument("--read", metavar="FILE", help=f"weights: {suffixes()}")
    parser.add_argument("--write", metavar="FILE", help=f"the file to write: {suffixes(written=True)}")
    args = parser.parse()
    if (args.read is None) == (args.write is None):
        parser.error("needs either --read=FILE or --write=FILE")
    command_line.set_up_jax()
    if args.read:
        weights = read(args.read)
        to_workdir(weights, args.workdir)
    else:
        weights = from_workdir(args.workdir)
        write(args.write, weights)
    print(counts.format_table(weights.net))
    text.print_line(f"{weights.model['net']}, written to {args.write or args.workdir}")


if __name__ == "__main__":
    main()

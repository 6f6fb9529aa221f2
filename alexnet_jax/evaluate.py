"""Evaluates trained nets on every example of a split: loss, top-1 and top-5 error (section 4.1).

  python -m alexnet_jax.evaluate --workdir=DIR [--workdir=DIR2 …] [--split=validation]

The nets predict by the centre view and by the paper's ten views: the four corners, the centre, and their mirror images.
The softmax probabilities of the views are averaged, and so are those of several nets, an ensemble.
"""

import argparse
import os
from typing import Any

from alexnet_jax import UserError
from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax.analysis import ensemble, inference
from alexnet_jax.data.class_names import readable
from alexnet_jax.runtime import files, text


@command_line.one_line_errors("nothing was written")
def main():
    parser = command_line.Parser("alexnet_jax.evaluate", __doc__)
    parser.add_argument(
        "--workdir", action="append", required=True, help="the directory of a run; several form an ensemble"
    )
    command_line.add_data_flags(parser)
    parser.add_argument("--batch_size", type=int, default=128, help="images at a time, all devices together (128)")
    parser.add_argument("--per_class", action="store_true", help="also print a table of the classes")
    parser.add_argument("--wrong", action="store_true", help="also print a list of the wrong examples")
    parser.add_argument("--json", help="the JSON file to write (evaluation.json in the first --workdir)")
    args = parser.parse()
    if args.batch_size < 1:
        parser.error("--batch_size must be above 0")
    command_line.set_up_jax()
    evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluates the nets that the flags of `main` name; writes and prints the result."""
    trained = ensemble.load(args.workdir)
    path = files.absolute(args.json) if args.json else trained.members[0].workdir / "evaluation.json"
    if not os.access(path.parent, os.W_OK) or path.exists() and not path.is_file():
        raise UserError(f"--json={path}: must be a file in a writable directory")
    name, root, split, source = inference.load_split(trained, args.dataset, args.root, args.split)
    nets = f"{len(trained.members)} nets" if len(trained.members) > 1 else f"step {trained.members[0].step}"
    text.print_line(f"{nets}, {len(source):,} {split} images of {name} {root}".rstrip())
    outputs = inference.classify_source(trained, source, 10, args.batch_size)
    result = {
        "workdirs": [str(member.workdir) for member in trained.members],
        "steps": [member.step for member in trained.members],
        "dataset": name,
        "root": root,
        "split": split,
    } | inference.errors(outputs)
    if args.per_class:
        result["classes"] = inference.by_class(outputs, trained.class_names)
    if args.wrong:
        result["wrong"] = inference.wrong_examples(outputs, source, trained.class_names)
    try:
        files.write_json(path, result, remedy="set --json to another file")
    finally:
        print_table(result)
    print()
    text.print_line(f"written to {path}")


def print_table(result: dict[str, Any]) -> None:
    """Prints an evaluation, with its classes and wrong examples if it has them."""
    print(f"{'view':10} {'loss':>8} {'top-1 error':>12} {'top-5 error':>12}")
    for way, title in inference.TITLES.items():
        r = result[way]
        print(f"{title:10} {r['loss']:8.4f} {r['top1_error']:12.2%} {r['top5_error']:12.2%}")
    if "classes" in result:
        print(f"\n{'images':>6} {'top-1':>8} {'top-5':>8}  class, and the most frequent wrong class (ten views)")
        for row in sorted(result["classes"], key=lambda row: -row["ten_crop"]["top1_error"]):
            r, confused = row["ten_crop"], row["confused_with"]
            taken_for = f" ← {confused[1]}× {readable(confused[0])}" if confused else ""
            name = readable(row["class"])
            text.print_line(f"{row['num_examples']:6} {r['top1_error']:8.2%} {r['top5_error']:8.2%}  {name}{taken_for}")
    if "wrong" in result:
        print(f"\n{len(result['wrong'])} wrong by ten views: image, class, predicted class")
        for row in result["wrong"]:
            best = row["predictions"][0]
            cells = (row["image"], readable(row["class"]), f"{best['name']} {best['probability']:.1%}")
            print("\t".join(map(text.printable, cells)))


if __name__ == "__main__":
    main()

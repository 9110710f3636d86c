"""The commands that change a finished dataset: each makes a generation of it."""

from __future__ import annotations

from collections.abc import Sequence

from beam_jobs.cli.datasets import add_workers, dataset_parser, print_result, reading
from beam_jobs.terminal import ProgressLine, counted

__all__ = ["relabel", "withdraw"]

_WITHDRAW = """\
Withdraw records from a dataset: a new generation without them. Readers neither give nor count them from then on. No
shard is written again, so the bytes of the images stay until `image-shards compact`. IDS is a file with an id a line.

Earlier generations stay readable with open_dataset(..., generation=N)."""


def withdraw(arguments: Sequence[str]) -> int:
    """Run `image-shards withdraw`, and return the exit status.

    Raises:
        JobError: the records cannot be withdrawn.
    """
    example = "image-shards withdraw shards gone.txt"
    parser = dataset_parser("withdraw", "DATASET IDS [--ignore-unknown]", _WITHDRAW, example)
    parser.add_argument("ids", metavar="IDS", help="the file with the ids")
    parser.add_argument("--ignore-unknown", action="store_true", help="count ids that no record has (default: fail)")
    found = parser.parse_all(arguments[1:])

    # Imported after parsing: help and wrong options need nothing of it.
    from beam_jobs.generations.withdraw import withdraw as withdraw_records
    from beam_jobs.sources.files.class_names import read_ids

    ids = read_ids(found.ids, "IDS")
    made = reading(lambda: withdraw_records(found.dataset, ids, ignore_unknown=found.ignore_unknown))
    earlier = f", {counted(made.earlier, 'record')} had been withdrawn before" if made.earlier else ""
    unknown = f", {counted(made.unknown, 'id')} that no record has" if made.unknown else ""
    if made.withdrawn:
        print_result(
            f"{found.dataset}: generation {made.manifest.generation}: {counted(made.withdrawn, 'record')} withdrawn,"
            f" {made.manifest.records:,} remain{earlier}{unknown}\n"
            "their bytes are still in the shards; `image-shards compact` removes them"
        )
    else:
        print_result(f"{found.dataset}: nothing to do{earlier}{unknown}")
    return 0


_RELABEL = """\
Give records new labels or other fields by their ids: a generation of the dataset, without touching an image or a shard.
TABLE is a .csv, .tsv, .jsonl or .parquet file with a column of ids. Its columns are new values of the fields of these
names; an empty cell changes nothing. A column that is no field yet becomes one, and needs a value for every record.

Labels are names of classes. New classes come behind those that are there, so that no number changes. Boxes and points
are given as they are stored: ymin, xmin, ymax, xmax as parts of the image's height and width.

The features inside of TFRecord and HDF5 files keep their old values, which programs without the index go on reading."""


def relabel(arguments: Sequence[str]) -> int:
    """Run `image-shards relabel`, and return the exit status.

    Raises:
        JobError: the table does not fit the dataset, or the dataset is damaged.
    """
    example = "image-shards relabel shards corrected.csv --label-column class"
    parser = dataset_parser("relabel", "DATASET TABLE [options]", _RELABEL, example)
    add = parser.add_argument
    add("table", metavar="TABLE", help="the table, or a folder of tables")
    add("--id-column", metavar="C", help="the column of ids (default: id)")
    add("--label-column", metavar="C", help="the column of labels (default: label, class, category, ...)")
    add("--label-separator", metavar="S", help="a label is several classes with S in between, as 'cat;dog'")
    add("--fields", type=lambda text: tuple(filter(None, text.split(","))), metavar="C,...",
        help="the columns that become fields (default: all others)")  # fmt: skip
    add("--ignore-unknown", action="store_true", help="count ids that no record has; without it they are an error")
    add_workers(parser)
    found = parser.parse_all(arguments[1:])

    from beam_jobs.generations.relabel import RelabelOptions
    from beam_jobs.generations.relabel import relabel as make

    options = RelabelOptions(
        place=found.dataset,
        table=found.table,
        id_column=found.id_column,
        label_column=found.label_column,
        label_separator=found.label_separator,
        fields=found.fields,
        ignore_unknown=found.ignore_unknown,
    )
    line = ProgressLine()
    result = reading(lambda: make(options, found.workers, line.show))
    line.clear()
    print_result(result.describe(found.dataset))
    return 0

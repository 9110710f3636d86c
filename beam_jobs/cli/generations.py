"""The commands that change a finished dataset: each makes a generation of it."""

from __future__ import annotations

from collections.abc import Sequence

from beam_jobs.cli.datasets import dataset_parser, print_result, reading
from beam_jobs.terminal import counted

__all__ = ["withdraw"]

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

"""A reader of DLIO (`reader.reader_classname`) for TensorFlow: DLIO's own one, which decodes.

DLIO 2.0.0 gives every batch the same pixels, made once from random numbers. Its `TFReader` parses the features of a
record, and decodes nothing.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from dlio_benchmark.reader.tf_reader import TFReader
from read_decode import tensorflow_crop


class TensorFlowCrops(TFReader):
    """DLIO's pipeline of `tf.data`, whose records are decoded, cropped, resized and flipped, by graph operations."""

    def next(self) -> Any:
        files = tf.data.Dataset.list_files(self._file_list, shuffle=False)
        files = files.shard(num_shards=self._args.comm_size, index=self._args.my_rank)
        records = tf.data.TFRecordDataset(
            files, buffer_size=self._args.transfer_size, num_parallel_reads=self._args.read_threads
        )
        images = records.map(_crop, num_parallel_calls=self._args.computation_threads, deterministic=False)
        options = tf.data.Options()
        # As DLIO's loader has it for other formats. With TensorFlow's common threads it would have more than its share
        # of a machine that others use, too.
        options.threading.private_threadpool_size = self._args.read_threads
        batches = images.batch(self.batch_size, drop_remainder=True).with_options(options)
        return batches.prefetch(self._args.prefetch_size)


def _crop(record: Any) -> Any:
    """The pixels of one record, uint8 `[224, 224, 3]`; only the part of the crop is decoded."""
    features = {"image": tf.io.FixedLenFeature([], tf.string), "size": tf.io.FixedLenFeature([], tf.int64)}
    jpeg = tf.io.parse_single_example(record, features)["image"]
    return tensorflow_crop(jpeg, dct_method="INTEGER_ACCURATE")

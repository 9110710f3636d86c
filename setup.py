"""Everything pip and a Beam worker need to know about image-shards; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "beam_jobs/__init__.py").read_text("utf-8"))[1]

DECODE = ["opencv-python-headless>=4.10", "pillow>=12.1.1,<13", "simplejpeg>=1.9,<2"]
HDF5 = ["h5py>=3.11,<3.15"]  # TensorFlow 2.21 wants h5py below 3.15
SOURCES = ["ijson>=3.3", "pyarrow>=16"]  # pyarrow is also Beam's
PIXELS = ["cykooz-resizer>=4.0.1,<5", "xxhash>=3.4"]
BEAM = ["apache-beam==2.77.*", "fsspec>=2024.6", "tqdm>=4.66", *DECODE, *HDF5, *PIXELS, *SOURCES]
TENSORFLOW = ["tensorflow>=2.21,<2.22"]
# The same modules without the GPU's libraries, a third of the download.
TENSORFLOW_CPU = ["tensorflow-cpu>=2.21,<2.22"]
JAX = ["jax>=0.6"]
TORCH = ["torch>=2.6"]
# Each brings the fsspec of its own release; tested are 2026.9 to 2026.10.
S3 = ["s3fs>=2026.9,<2027"]
GCS = ["gcsfs>=2026.9,<2027"]
AZURE = ["adlfs>=2026.8,<2027"]
HEIC = ["pillow-heif>=1.1,<2"]
HTTP = ["fsspec[http]>=2026.9,<2027"]
DATAFLOW = [*BEAM, *GCS, "apache-beam[gcp]==2.77.*"]
DEMO = [*BEAM, *TENSORFLOW_CPU, "keras>=3.12", "scikit-learn>=1.5"]
TEST = [
    *DEMO,
    *DATAFLOW,
    *S3,
    *AZURE,
    *HEIC,
    *HTTP,
    *JAX,
    *TORCH,
    *("cryptography>=43", "flask>=3", "flask-cors>=5", "moto[s3]>=5.1"),  # servers of HTTPS and of S3
    # Its wheels are of this kind alone; without it, hypothesis mutates the inputs of tests/fuzz.
    "atheris>=3; sys_platform == 'linux' and platform_machine == 'x86_64'",
    *("hypothesis>=6.100", "pandas>=2.2", "pytest>=8.3", "pytest-xdist>=3.6"),
    *("tensorflow-datasets>=4.9.9", "torchdata>=0.11", "webdataset>=0.2.100"),
    *("accelerate>=1.15", "pytorch-lightning>=2.6", "transformers>=5.24"),  # trainers around a StreamDataset
]

DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "ruff==0.17.*", "zensical>=0.0.50"]

setup(
    name="image-shards",
    version=VERSION,
    description="Turn raw images into shards once, and stream them into training in exact order.",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["beam_jobs", "beam_jobs.*", "shard_reader", "shard_reader.*"]),
    package_data={"beam_jobs": ["py.typed"], "shard_reader": ["py.typed"]},
    python_requires=">=3.11,<3.14",
    install_requires=["google-crc32c>=1.6", "numpy>=2.0,<2.5"],
    extras_require={
        "azure": AZURE,
        "beam": BEAM,
        "dataflow": DATAFLOW,
        "decode": DECODE,
        "gcs": GCS,
        "hdf5": HDF5,
        "heic": HEIC,
        "http": HTTP,
        "jax": [*JAX, *DECODE],
        "keras": ["keras>=3.12", *DECODE],
        "s3": S3,
        "tf": [*TENSORFLOW, *DECODE],
        "torch": [*TORCH, *DECODE],
        "demo": DEMO,
        "docs": [*DOCS, *BEAM],
        "test": TEST,
        "dev": [*TEST, *DOCS, "mypy==2.4.*", "ruff==0.17.*"],
    },
    entry_points={"console_scripts": ["image-shards = beam_jobs.__main__:command"]},
)

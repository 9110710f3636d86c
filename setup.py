"""Everything pip and a Beam worker need to know about image-shards; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "shard_reader/__init__.py").read_text("utf-8"))[1]
# A placeholder: the project has no address yet. example.org is reserved and never holds a project.
HOME = "https://example.org/image-shards"


# Code, which stays; [text](target), also around a picture; ![text](target); and the same in HTML.
LINKS = re.compile(
    r"""(?P<code>^```.*?^```$|`[^`\n]+`)"""
    r"""|(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(|\b(?:src|srcset|href)=")(?P<target>[^)\s"]+)""",
    re.DOTALL | re.MULTILINE,
)


def absolute_links(readme: str) -> str:
    """README.md for an index of packages, on which a link to a file of the repository would lead nowhere."""

    def absolute(found: re.Match[str]) -> str:
        if found["code"]:
            return found["code"]
        text, target = found["text"][0] + LINKS.sub(absolute, found["text"][1:]), found["target"]
        if re.match("[a-z]+:", target):
            return text + target
        kind = "raw" if text.startswith(("!", "src")) else "blob"
        return f"{text}{HOME}/{kind}/v{VERSION}/{'README.md' if target.startswith('#') else ''}{target}"

    return LINKS.sub(absolute, readme)


JPEG_AND_PNG = ["pillow>=12.1.1,<13", "simplejpeg>=1.9,<2"]
DECODE = ["opencv-python-headless>=4.10", *JPEG_AND_PNG]
HDF5 = ["h5py>=3.11"]
REPORT = ["jinja2>=3.1"]
SOURCES = ["ijson>=3.3", "pyarrow>=16"]  # pyarrow is also Beam's
PAPERS = ["pyyaml>=6"]
PIXELS = ["cykooz-resizer>=4.0.1,<5", "xxhash>=3.4"]
# Without OpenCV, a quarter of the whole: of images, it reads those of 16-bit colours alone.
BEAM = [
    "apache-beam==2.77.*",
    "fsspec>=2024.6",
    "tqdm>=4.66",
    *JPEG_AND_PNG,
    *HDF5,
    *PIXELS,
    *SOURCES,
    *PAPERS,
    *REPORT,
]
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
TIFF = ["imagecodecs>=2026.3", "tifffile>=2026.3"]  # of bands and floats; Pillow reads the others
COCO = ["pycocotools>=2.0.8,<3"]  # outlines of objects as masks
DICOM = ["pydicom>=3.0,<4"]
PANDAS = ["pandas>=2.2"]
TELEMETRY = ["opentelemetry-api>=1.30"]
HTTP = ["fsspec[http]>=2026.9,<2027"]
DATAFLOW = [*BEAM, *DECODE, *GCS, "apache-beam[gcp]==2.77.*"]  # all that the worker image has
DEMO = [*BEAM, *DECODE, *TENSORFLOW_CPU, "keras>=3.12", "scikit-learn>=1.5"]
TEST = [
    *DEMO,
    *DATAFLOW,
    *S3,
    *AZURE,
    *HEIC,
    *TIFF,
    *COCO,
    *DICOM,
    *HTTP,
    *PANDAS,
    *("opentelemetry-sdk>=1.30", "tensorboard>=2.19"),  # where numbers of telemetry go
    *JAX,
    *TORCH,
    *("build>=1.2", "twine>=6.1"),  # a wheel, as a release has it
    *("cryptography>=43", "flask>=3", "flask-cors>=5", "moto[s3]>=5.1"),  # servers of HTTPS and of S3
    # Its wheels are of this kind alone; without it, hypothesis mutates the inputs of tests/fuzz.
    "atheris>=3; sys_platform == 'linux' and platform_machine == 'x86_64'",
    *("ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"),  # notebooks of the documentation
    *("hypothesis>=6.100", "pytest>=8.3", "pytest-xdist>=3.6"),
    *("axe-playwright-python>=0.1.7", "playwright>=1.50"),  # a browser, and a check of accessibility
    *("tensorflow-datasets>=4.9.9", "torchdata>=0.11", "webdataset>=0.2.100"),
    *("datasets>=4", "mlcroissant>=1.1", "tfrecord>=1.14"),  # readers of the papers
    *("albumentations>=2.0.8", "torchvision>=0.23"),  # transforms in a stream, and to compare with
    *("accelerate>=1.15", "pytorch-lightning>=2.6", "timm>=1.0", "transformers>=5.24"),  # trainers of PyTorch
    *("flax>=0.12", "grain>=0.2.12", "optax>=0.2.6", "orbax-checkpoint>=0.11"),  # trainings in JAX
]

DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "ruff==0.17.*", "zensical>=0.0.50"]

setup(
    name="image-shards",
    version=VERSION,
    description="Turn raw images into shards once, and stream them into training in exact order.",
    long_description=absolute_links((HERE / "README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
    project_urls={
        "Homepage": HOME,
        "Documentation": f"{HOME}/docs",
        "Source": f"{HOME}/source",
        "Issues": f"{HOME}/issues",
        "Changelog": f"{HOME}/blob/v{VERSION}/CHANGELOG.md",
    },
    author="The image-shards developers",
    keywords="images, dataset, training, tfrecord, hdf5, apache-beam, data-loading, keras, pytorch, tensorflow, jax",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["beam_jobs", "beam_jobs.*", "shard_reader", "shard_reader.*"]),
    package_data={"beam_jobs": ["py.typed"], "beam_jobs.report": ["templates/*"], "shard_reader": ["py.typed"]},
    python_requires=">=3.11,<3.15",
    install_requires=["google-crc32c>=1.6", "numpy>=2.0"],  # Beam and TensorFlow have upper bounds of their own
    extras_require={
        "azure": AZURE,
        "beam": BEAM,
        "coco": COCO,
        "dataflow": DATAFLOW,
        "decode": DECODE,
        "gcs": GCS,
        "hdf5": HDF5,
        "dicom": DICOM,
        "heic": HEIC,
        "http": HTTP,
        "jax": [*JAX, *DECODE],
        "keras": ["keras>=3.12", *DECODE],
        "pandas": PANDAS,
        "preprocess": [*JPEG_AND_PNG, *PIXELS],
        "report": [*REPORT, *DECODE],
        "s3": S3,
        "telemetry": TELEMETRY,
        "tiff": TIFF,
        "tf": [*TENSORFLOW, *DECODE],
        "torch": [*TORCH, *DECODE],
        "demo": DEMO,
        "docs": [*DOCS, *BEAM],
        "test": TEST,
        "dev": [*TEST, *DOCS, "mypy==2.4.*", "ruff==0.17.*"],
    },
    entry_points={"console_scripts": ["image-shards = beam_jobs.__main__:command"]},
)

"""Everything that can be downloaded: where from, how large, its SHA-256 and its licence.

Models that ``transformers`` and ``diffusers`` fetch themselves by hub id are not here.
"""

import fcntl
import hashlib
import http.client
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from asymtalker.errors import UserError
from asymtalker.media.atomic import write_atomic

PARALLEL = 4
TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 1 << 16
FAKER_PORTRAITS = "faker-js/assets-person-portrait"
HUB = "https://huggingface.co"
LATENTSYNC = "ByteDance/LatentSync-1.5/resolve/32a20d29aead0498e3e885e90dbbe8027da1b61b"
DLIB_MODELS = (
    "https://raw.githubusercontent.com/ageitgey/face_recognition_models/master/face_recognition_models/models"
)


@dataclass(frozen=True)
class RemoteFile:
    """One file of an entry.

    Attributes:
        path: below the entry's folder, and below each of its mirrors.
        size: in bytes.
        sha256: in hexadecimal.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """Files that belong together.

    Attributes:
        mirrors: addresses of the folder they are in, tried in order; all must give what is listed.
        listed: the file, or a table of many: lines ``path, size, sha256`` between tabs, below a header.
        licence: SPDX identifier, or what the makers say.
        origin: who made them and where they say so.
        package: the Python package whose folder ``models`` has them; where it is installed nothing is downloaded.
    """

    mirrors: tuple[str, ...]
    listed: RemoteFile | Path
    licence: str
    origin: str
    package: str | None = None

    def files(self) -> list[RemoteFile]:
        """The files, in the order of the table."""
        if isinstance(self.listed, RemoteFile):
            return [self.listed]
        lines = self.listed.read_text(encoding="utf-8").splitlines()[1:]
        return [RemoteFile(path, int(size), sha256) for path, size, sha256 in (line.split("\t") for line in lines)]


REGISTRY = {
    "cc0_portraits": Entry(
        mirrors=(
            f"https://raw.githubusercontent.com/{FAKER_PORTRAITS}/5b5120a7aaaf363efc72b447c6af82ef57e916a2",
            f"https://cdn.jsdelivr.net/gh/{FAKER_PORTRAITS}@main",
        ),
        listed=Path(__file__).with_name("cc0_portraits.tsv"),
        licence="CC0-1.0",
        origin=f"{FAKER_PORTRAITS} on GitHub: 176 portraits of adults who do not exist, made with Stable Diffusion 3",
    ),
    # The published networks of evaluation.
    "inception": Entry(
        mirrors=("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0",),
        listed=RemoteFile(
            "weights-inception-2015-12-05-6726825d.pth",
            95_628_359,
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
        licence="Apache-2.0",
        origin="Inception-v3 of TensorFlow, 2015-12-05, converted by torch-fidelity (the same bytes as pytorch-fid's)",
    ),
    "i3d": Entry(
        mirrors=(
            f"{HUB}/flateon/FVD-I3D-torchscript/resolve/1c2d61711c52571ad617a1063e6fa691b212e184",
            f"{HUB}/{LATENTSYNC}/auxiliary",
        ),
        listed=RemoteFile(
            "i3d_torchscript.pt", 51_235_320, "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
        ),
        licence="none stated (StyleGAN-V's file; the network is DeepMind's kinetics-i3d, Apache-2.0)",
        origin="I3D trained on Kinetics-400, as TorchScript, of StyleGAN-V and universome/fvd-comparison on GitHub",
    ),
    "syncnet": Entry(
        mirrors=("https://www.robots.ox.ac.uk/~vgg/software/lipsync/data", f"{HUB}/{LATENTSYNC}/auxiliary"),
        listed=RemoteFile(
            "syncnet_v2.model", 54_573_114, "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442"
        ),
        licence="none stated for the weights (code: MIT)",
        origin="SyncNet of Chung and Zisserman 2016, joonson/syncnet_python on GitHub",
    ),
    "arcface": Entry(
        mirrors=(
            "https://github.com/yakhyo/uniface/releases/download/weights",
            f"{HUB}/public-data/insightface/resolve/33c1063c49c785b7652d3fd529f86fa4f149392b/models/buffalo_l",
        ),
        listed=RemoteFile(
            "w600k_r50.onnx", 174_383_860, "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43"
        ),
        licence="non-commercial research only (InsightFace's model zoo)",
        origin="ArcFace, ResNet-50 trained on WebFace600K, of InsightFace's buffalo_l",
    ),
    "yunet": Entry(
        mirrors=(
            "https://media.githubusercontent.com/media/opencv/opencv_zoo/47534e27c9851bb1128ccc0102f1145e27f23f98"
            "/models/face_detection_yunet",
            f"{HUB}/opencv/face_detection_yunet/resolve/3cc26e7f1014a5ee5d74a42acee58bafc9d0a310",
        ),
        listed=RemoteFile(
            "face_detection_yunet_2023mar.onnx",
            232_589,
            "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        ),
        licence="MIT",
        origin="YuNet face detector of Shiqi Yu, as OpenCV's model zoo publishes it",
    ),
    # Those of curation, beside SyncNet.
    "dwpose": Entry(
        mirrors=(f"{HUB}/yzd-v/DWPose/resolve/1a7144101628d69ee7a3768d1ee3a094070dc388",),
        listed=RemoteFile(
            "dw-ll_ucoco_384.onnx", 134_399_116, "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843"
        ),
        licence="Apache-2.0",
        origin="DWPose of Yang and others 2023, 133 points of a body at 384 x 288, IDEA-Research/DWPose on GitHub",
    ),
    "bisenet": Entry(
        mirrors=("https://github.com/yakhyo/face-parsing/releases/download/weights",),
        listed=RemoteFile(
            "resnet18.onnx", 53_205_364, "0d9bd318e46987c3bdbfacae9e2c0f461cae1c6ac6ea6d43bbe541a91727e33f"
        ),
        licence="MIT",
        origin="BiSeNet with a ResNet-18, trained on CelebAMask-HQ, yakhyo/face-parsing on GitHub",
    ),
    "separation": Entry(
        mirrors=(
            "https://github.com/TRvlvr/model_repo/releases/download/all_public_uvr_models",
            f"{HUB}/nomadkaraoke/public_uvr_models/resolve/999821733f252623504d13eca10cc3cc89c6108e",
        ),
        listed=RemoteFile(
            "Kim_Vocal_2.onnx", 66_759_214, "ce74ef3b6a6024ce44211a07be9cf8bc6d87728cc852a68ab34eb8e58cde9c8b"
        ),
        licence="none stated for the weights",
        origin="Kim Vocal 2, an MDX-Net that separates voices from music, of Ultimate Vocal Remover on GitHub",
    ),
    "text": Entry(
        mirrors=("https://www.modelscope.cn/models/RapidAI/RapidOCR/resolve/v3.4.0/onnx/PP-OCRv4/det",),
        listed=RemoteFile(
            "ch_PP-OCRv4_det_infer.onnx",
            4_745_517,
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        licence="Apache-2.0",
        origin="PP-OCRv4's text detector, PaddlePaddle/PaddleOCR on GitHub, converted by RapidAI/RapidOCR",
        package="rapidocr_onnxruntime",
    ),
    "dlib_points": Entry(
        mirrors=(DLIB_MODELS,),
        listed=RemoteFile(
            "shape_predictor_5_face_landmarks.dat",
            9_150_489,
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
        ),
        licence="CC0-1.0",
        origin="dlib's five points of a face, Davis King, dlib-models on GitHub",
        package="face_recognition_models",
    ),
    "dlib_face": Entry(
        mirrors=(DLIB_MODELS,),
        listed=RemoteFile(
            "dlib_face_recognition_resnet_model_v1.dat",
            22_466_066,
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        ),
        licence="CC0-1.0",
        origin="dlib's face recognition, a ResNet with 29 layers, Davis King, dlib-models on GitHub",
        package="face_recognition_models",
    ),
}


def fetch_file(name: str, offline: bool = False) -> Path:
    """The one file of an entry, of the package that ships it or of the cache, where it may have been put by hand.

    Its contents are checked.

    Args:
        name: a key of ``REGISTRY`` with a single file.
        offline: do not download it.

    Raises:
        UserError: as :func:`fetch` does; if the contents are others than registered; if it is not there and may not
            be downloaded.
    """
    (file,) = REGISTRY[name].files()
    path = cache_dir() / name / file.path
    if (packaged := _packaged(REGISTRY[name], file)) is not None:
        path = packaged
    elif not _has(path, file.size):
        if offline:
            found = "has another size than registered" if path.is_file() else "is not there"
            raise UserError(f"{file.path} {found} in the cache's folder {name}, and --offline downloads nothing")
        fetch(name)
    with path.open("rb") as contents:
        if hashlib.file_digest(contents, "sha256").hexdigest() != file.sha256:
            raise UserError(f"{path} has other contents than registered: delete it, and it is downloaded anew")
    return path


def _packaged(entry: Entry, file: RemoteFile) -> Path | None:
    """The file as an installed package has it."""
    spec = find_spec(entry.package) if entry.package else None
    folders = (spec.submodule_search_locations or []) if spec else []
    paths = [Path(folder) / "models" / file.path for folder in folders]
    return next((path for path in paths if _has(path, file.size)), None)


def cache_dir() -> Path:
    """Folder of downloads: ``ASYMTALKER_CACHE``, else ``asymtalker`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("ASYMTALKER_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "asymtalker"


def named_portraits(portraits: Path) -> Path:
    """The folder that ``--portraits`` means: ``cc0`` is the registered set, fetched if need be, unless there is a
    folder of that name.

    Raises:
        UserError: as :func:`fetch` does.
    """
    return fetch("cc0_portraits") if str(portraits) == "cc0" and not portraits.is_dir() else portraits


def fetch(name: str) -> Path:
    """The folder with the files of an entry, downloaded where they are not there yet, and their licence beside them.

    A download that was cut short goes on where it stopped. Of several processes one downloads and the others wait.
    Progress goes to stderr.

    Args:
        name: a key of ``REGISTRY``.

    Raises:
        UserError: if there is no such entry, no connection, no room, or other contents than registered.
    """
    if name not in REGISTRY:
        raise UserError(f"there is nothing called {name} to download; there is {', '.join(REGISTRY)}")
    entry, folder = REGISTRY[name], cache_dir() / name
    if not _missing(entry, folder):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (cache_dir() / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or this process is gone
            write_atomic(folder / "LICENCE.txt", "\n".join((entry.licence, entry.origin, *entry.mirrors, "")))
            _download_missing(name, entry, folder)
    except OSError as error:
        raise UserError(f"cannot keep the download of {name} in {folder}: {error.strerror or error}") from error
    return folder


def _missing(entry: Entry, folder: Path) -> list[RemoteFile]:
    return [file for file in entry.files() if not _has(folder / file.path, file.size)]


def _download_missing(name: str, entry: Entry, folder: Path) -> None:
    files, missing = entry.files(), _missing(entry, folder)
    columns = (TextColumn(f"download {name}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        done = sum(file.size for file in files) - sum(file.size for file in missing)
        bar = progress.add_task("", total=sum(file.size for file in files), completed=done)
        pool = ThreadPoolExecutor(PARALLEL)
        try:
            downloads = [
                pool.submit(
                    _download, name, entry, file, folder / file.path, lambda count: progress.advance(bar, count)
                )
                for file in missing
            ]
            for download in downloads:
                download.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _download(name: str, entry: Entry, file: RemoteFile, target: Path, advance: Callable[[int], None]) -> None:
    """Bring one file into place from the first mirror that gives it."""
    part = target.with_name(f"{target.name}.part")
    problem = ""
    mirrors = list(entry.mirrors)
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = part.stat().st_size if part.is_file() else 0
    advance(kept)
    while mirrors:
        mirror = mirrors.pop(0)
        try:
            _receive(f"{mirror}/{file.path}", part, file.size, advance)
        except (_ConnectionError, http.client.HTTPException) as error:
            problem = f"{urlsplit(mirror).netloc}: {error}; check the connection and give the same command again"
            continue
        found = hashlib.sha256(part.read_bytes()).hexdigest()
        if found == file.sha256:
            os.replace(part, target)
            return
        problem = f"{urlsplit(mirror).netloc} gives other contents than registered, SHA-256 {found}; nothing is kept"
        advance(-part.stat().st_size)
        part.unlink()
        if kept:  # its beginning may have been damaged here: ask for all of it
            mirrors.insert(0, mirror)
            kept = 0
    raise UserError(f"cannot download {file.path} of {name}: {problem}")


class _ConnectionError(Exception):
    """The network, not the disk."""


def _receive(url: str, part: Path, size: int, advance: Callable[[int], None]) -> None:
    """Append to ``part`` what it lacks of ``size`` bytes.

    Raises:
        _ConnectionError: if the server cannot be reached, refuses, or stops early.
        OSError: if ``part`` cannot be written.
    """
    start = part.stat().st_size if part.is_file() else 0
    if start == size:
        return
    if start > size:
        advance(-start)
        part.unlink()
        start = 0
    headers = {"User-Agent": "asymtalker"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        raise _ConnectionError(error) from error
    except URLError as error:
        raise _ConnectionError(error.reason) from error
    except OSError as error:
        raise _ConnectionError(error) from error
    with response:
        if start and response.status != http.client.PARTIAL_CONTENT:  # the server sends all of it
            advance(-start)
            start = 0
        with part.open("ab" if start else "wb") as out:
            while start < size:
                try:
                    block = response.read(min(BLOCK_BYTES, size - start))
                except OSError as error:
                    raise _ConnectionError(error) from error
                if not block:
                    raise _ConnectionError(f"the connection ended after {start} of {size} bytes")
                out.write(block)
                start += len(block)
                advance(len(block))

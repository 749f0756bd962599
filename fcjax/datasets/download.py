"""Files that are fetched once, checked by their sha256, and kept in the user's cache folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fcjax.datasets.dataset import DataError

__all__ = ["RemoteFile", "cache_folder", "fetch"]

TIMEOUT = (5.0, 30.0)  # seconds to connect, and between two pieces of an answer


@dataclass(frozen=True)
class RemoteFile:
    """A file that exists at several addresses, all with the same content.

    Args:
        name: what it is called in the cache folder.
        sha256: of its content, in hexadecimal.
        urls: where to get it, in the order to try.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]


def cache_folder() -> Path:
    """Where downloads are kept: the folder named by the environment variable ``FCJAX_DATA``, or the user's cache."""
    named = os.environ.get("FCJAX_DATA")
    if named:
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("fcjax"))


def fetch(file: RemoteFile, dataset: str) -> Path:
    """The local copy of ``file``, downloaded unless a good one is in the cache already.

    An address that doesn't answer, or answers with other content, is passed over for the next. Nothing is left behind
    by a download that fails or is interrupted.

    Args:
        file: what to get.
        dataset: the subfolder of the cache, and what messages call it.

    Raises:
        DataError: no address served it; the message names them, the cache folder and what to do without a network.
            Or the cache folder can't be written.
    """
    import pooch
    import requests

    folder = cache_folder() / dataset
    pooch.get_logger().setLevel("WARNING")  # the progress bar says the rest
    failures = []
    for url in file.urls:
        keeper = pooch.create(path=folder, base_url="", registry={file.name: file.sha256}, urls={file.name: url})
        try:
            return Path(keeper.fetch(file.name, downloader=_download))
        except requests.RequestException as error:
            failures.append(f"{url} ({_reason(error)})")
        except ValueError:  # pooch's word for a wrong hash
            failures.append(f"{url} (its sha256 is not the expected one)")
        except OSError as error:
            raise DataError(
                f"{dataset}: the cache folder {folder} can't be written ({error.strerror or error}): set FCJAX_DATA to "
                f"another one, or name a folder that holds {file.name} with --data-dir"
            ) from None
    raise DataError(
        f"{dataset}: {file.name} can't be downloaded from {' or '.join(failures)}: put it into the cache folder "
        f"{folder}, or name a folder that holds it with --data-dir"
    )


def _download(url: str, output_file: str | IO[bytes], keeper: Any) -> None:
    import pooch
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = _Bar(progress, url)
        # A server that decompresses on the way would spoil the hash.
        headers = {"Accept-Encoding": "identity"}
        download = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=TIMEOUT, headers=headers)
        download(url, output_file, keeper)


class _Bar:
    """The progress bar that pooch knows how to drive, drawn by rich."""

    def __init__(self, progress: Any, url: str) -> None:
        self._progress, self._task = progress, progress.add_task(url, total=None)
        self.total = 0

    def update(self, count: int) -> None:
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop_task(self._task)


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__

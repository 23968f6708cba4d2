"""Local images on their way to machines that do not share a folder with this one."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bdkit.training.shards.files import is_remote
from bdkit.training.shards.jobs import Item, Make
from bdkit.training.shards.sources import Location, Row, read_location

FIELDS = ("image", "mask", "text", "details")


class SendingFiles(Executor):
    """Another executor that is sent, with each job, the local files that the job's rows name."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future result; a file that is missing here is missing to the job, too."""
        sent: dict[Location, bytes] = {}
        for row in args[0] if isinstance(args[0], list) else ():
            for location in (getattr(row, name) for name in FIELDS):
                if location is not None and not is_remote(location[0]):
                    with suppress(OSError):
                        sent[location] = read_location(location)
        if not sent:
            return self.executor.submit(fn, *args, **kwargs)
        return self.executor.submit(with_files, fn, sent, *args, **kwargs)


def with_files(make: Make, sent: dict[Location, bytes], rows: Sequence[Row], *arguments: Any) -> list[Item]:
    """Calls `make` with rows that name copies of the files that were sent."""
    with TemporaryDirectory(prefix="bdkit-") as folder:
        copies: dict[Location | None, Location] = {}
        for number, (location, data) in enumerate(sent.items()):
            path = Path(folder) / str(number)
            path.write_bytes(data)
            copies[location] = (str(path), None, None)
        named = []
        for row in rows:
            locations = {name: getattr(row, name) for name in FIELDS}
            named.append(replace(row, **{name: copies.get(at, at) for name, at in locations.items()}))
        return make(named, *arguments)

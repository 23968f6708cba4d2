"""What `bdkit prepare` reads: images with a list of captions, or tars in webdataset form."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bdkit.training.shards.files import file_size, is_remote, join, list_files, read_file, scan_tar
from bdkit.utils.errors import InputError
from bdkit.utils.images import SUFFIXES

LIST_SUFFIXES = (".csv", ".jsonl", ".parquet")
MAX_KEY = 80  # characters; a tar header has room for 100 with the extension
Location = tuple[str, int | None, int | None]  # path, and offset and size within a tar


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image of the input.

    number: its place in the input, from 0
    key: its name in the shards
    source: where it comes from, for people
    image, mask, text, details: locations of the image, the mask, a caption (txt) and a record (json)
    box: left, top, right and bottom edge of the subject, in pixels of the image
    """

    number: int
    key: str
    source: str
    image: Location
    mask: Location | None = None
    text: Location | None = None
    details: Location | None = None
    caption: str | None = None
    subject: str | None = None
    box: tuple[float, ...] | None = field(default=None)


def read_location(location: Location) -> bytes:
    """The bytes at a location. Raises OSError like `open`."""
    return read_file(*location)


def read_rows(images: str, captions: str | None, masks: str | None = None, skip_missing: bool = False) -> list[Row]:
    """The rows of the input, in its order.

    Args:
        images: folder (or fsspec URL) that the paths of the list start from, or tars: one, a folder or a pattern.
        captions: CSV, JSONL or parquet with columns path, caption, subject and, where wanted, box, mask and key;
            None for tars, whose records hold `txt` or `json` (caption, subject, box).
        masks: folder of mask files, under the image's path with any suffix or the list's column mask; None: the
            column mask, from `images`.
        skip_missing: leave an image that is missing to be rejected like a damaged one.
    """
    rows = _tar_rows(images) if captions is None else _list_rows(images, captions, masks, skip_missing)
    if not rows:
        raise InputError(f"{captions or images} holds no image; check the path")
    lines: dict[str, Row] = {}
    for row in rows:
        other = lines.setdefault(row.key, row)
        if other is not row:
            raise InputError(
                f"key {row.key!r} stands twice, for {other.source} and {row.source}; give each image a key of its own"
            )
    return rows


def _list_rows(images: str, captions: str, masks: str | None, skip_missing: bool) -> list[Row]:
    files = set(list_files(images)) if is_remote(images) else None
    by_stem = {os.path.splitext(path)[0]: path for path in list_files(masks)} if masks else {}
    rows, missing = [], []
    for number, values in enumerate(_read_list(captions)):
        at = f"row {number + 1} of {captions}"
        name = values.get("path")
        if not isinstance(name, str) or not name:
            raise InputError(f"{at} has no path; the columns are path, caption, subject and, if any, box, mask, key")
        path = join(images, name)
        if not (path in files if files is not None else os.path.isfile(path)):
            missing.append((number, name))
        mask = _mask_path(values.get("mask"), name, images, masks, by_stem)
        rows.append(
            Row(
                number=number,
                key=_key(str(values.get("key") or f"{number:09d}"), at),
                source=name,
                image=(path, None, None),
                mask=None if mask is None else (mask, None, None),
                caption=_text(values.get("caption")),
                subject=_text(values.get("subject")),
                box=parse_box(values.get("box"), at),
            )
        )
    if missing and not skip_missing:
        number, name = missing[0]
        raise InputError(
            f"{captions} has captions for {len(missing)} images that are not in {images}, the first is {name} (row "
            f"{number + 1}); check the folder, or --skip-missing"
        )
    return rows


def _mask_path(given: Any, name: str, images: str, masks: str | None, by_stem: dict[str, str]) -> str | None:
    if given:
        return join(masks or images, str(given))
    return by_stem.get(os.path.splitext(join(masks, name))[0]) if masks else None


def _read_list(path: str) -> Iterator[dict[str, Any]]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in LIST_SUFFIXES:
        raise InputError(f"{path} is no list of captions; give a file that ends in {', '.join(LIST_SUFFIXES)}")
    try:
        data = read_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    if suffix == ".parquet":
        yield from _read_parquet(path, data)
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    if suffix == ".csv":
        yield from _read_csv(path, text)
        return
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number + 1} of {path} is not JSON ({error}); mend it") from error
        if not isinstance(value, dict):
            raise InputError(f"line {number + 1} of {path} is no JSON object; write one object a line")
        yield value


def _read_csv(path: str, text: str) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = rows.fieldnames or []
        if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
            raise InputError(f"{path} has {other[0]!r} between its columns; save it with commas")
        yield from rows
    except csv.Error as error:
        raise InputError(f"{path} is no CSV after line {rows.line_num} ({error}); save it with commas") from error


def _read_parquet(path: str, data: bytes) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        for batch in file.iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no readable parquet file ({str(error).splitlines()[0]})") from error


def _tar_rows(images: str) -> list[Row]:
    tars = [path for path in list_files(images) if path.endswith(".tar")]
    if not tars:
        if file_size(images) is None and not list_files(images):
            raise InputError(f"{images} is missing or empty; give a folder of images, or tars")
        raise InputError(f"{images} holds no tar; name the images' captions with --captions FILE")
    rows: list[Row] = []
    for tar in tars:
        records: dict[str, dict[str, Location]] = {}
        for key, extension, offset, size in scan_tar(tar):
            files = records.setdefault(key, {})
            if extension in files:
                raise InputError(f"{tar} holds {key}.{extension} twice; give each image a key of its own")
            files[extension] = (tar, offset, size)
        for key, files in records.items():
            image = next((files[suffix[1:]] for suffix in SUFFIXES if suffix[1:] in files), None)
            if image is None:
                raise InputError(f"{tar} holds a caption {key!r} without an image; take it out")
            mask = next((files[name] for name in ("alpha.png", "mask.png", "mask.jpg") if name in files), None)
            rows.append(
                Row(
                    number=len(rows),
                    key=_key(re.sub(r"[^\w-]", "_", key), tar),
                    source=f"{os.path.basename(tar)}/{key}",
                    image=image,
                    mask=mask,
                    text=files.get("txt"),
                    details=files.get("json"),
                )
            )
    return rows


def _key(key: str, at: str) -> str:
    if not re.fullmatch(rf"[\w-]{{1,{MAX_KEY}}}", key, re.ASCII):
        raise InputError(f"{at} has the key {key!r}; use up to {MAX_KEY} letters, digits, - and _")
    return key


def _text(value: Any) -> str | None:
    return " ".join(value.split()) or None if isinstance(value, str) else None


def parse_box(value: Any, at: str) -> tuple[float, ...] | None:
    """Four numbers, as a list or as text with commas or spaces between them; None for nothing."""
    if value is None or value == "":
        return None
    try:
        parts = re.split(r"[,\s]+", value.strip(" []()")) if isinstance(value, str) else list(value)
        box = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        box = ()
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"{at} has the box {value!r}; write left, top, right and bottom edge in pixels")
    return box


def text_of(row: Row) -> tuple[str | None, str | None, tuple[float, ...] | None]:
    """Caption, subject and box of a row, from the list or from its record in the tar.

    Raises InputError or ValueError for a record that cannot be read.
    """
    caption, subject, box = row.caption, row.subject, row.box
    if row.text is not None:
        caption = _text(read_location(row.text).decode("utf-8", "replace"))
    if row.details is not None:
        details = json.loads(read_location(row.details))
        caption = caption or _text(details.get("caption"))
        subject = _text(details.get("subject"))
        box = parse_box(details.get("box"), row.source)
    return caption, subject, box

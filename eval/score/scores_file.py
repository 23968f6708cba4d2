"""The files of a scored folder: scores.csv (or scores.parquet) and nearest.csv."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bdkit.utils.errors import InputError
from bdkit.utils.io import write_bytes, write_text
from eval.results_dir import REAL, REAL_WITH_SELF, SCORES_FILE, ImageId

PARQUET_FILE = "scores.parquet"
NEAREST_FILE = "nearest.csv"
ORACLE_ROWS = (REAL, REAL_WITH_SELF)
IMAGE_COLUMNS = ("method", "seed_set", "subject", "prompt", "sample")
COLUMNS = (*IMAGE_COLUMNS, "metric", "value")
PROTOCOL_COLUMN = "protocol"
NO_PROMPT = -1


def write_scores(frame: pd.DataFrame, out: Path) -> None:
    """Writes OUT/scores.csv (6 decimals; the same scores give the same bytes) and scores.parquet."""
    write_text(frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"), out / SCORES_FILE)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(buffer.getvalue(), out / PARQUET_FILE)


def read_scores(out: Path) -> pd.DataFrame:
    """The frame of OUT/scores.csv, or where only that is there, of scores.parquet, a tenth of its size; one of an older
    bdkit has no column `protocol`.
    """
    path, parquet = out / SCORES_FILE, out / PARQUET_FILE
    try:
        if parquet.exists() and not path.exists():
            path = parquet
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, keep_default_na=False, low_memory=False)
        columns = [*COLUMNS, *([PROTOCOL_COLUMN] if PROTOCOL_COLUMN in frame else [])]
        frame = frame[columns].astype({"seed_set": int, "prompt": int, "sample": int, "value": float})
        wrong = "it holds no score" if frame.empty else ""
        if not np.isfinite(frame["value"]).all():
            wrong = "it holds values that are not finite"
        elif frame.duplicated([name for name in columns if name != "value"]).any():
            wrong = "it holds a score twice"
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; run `bdkit score {out}` first") from error
    except KeyError:
        wrong = f"it needs the columns {', '.join(COLUMNS)}, with commas between"
    except (OSError, ValueError, OverflowError) as error:
        wrong = str(error).partition(":")[0]
    if wrong:
        raise InputError(f"{path} cannot be read: {wrong}; run `bdkit score {out}` again")
    return frame


def write_nearest(nearest: Sequence[tuple[ImageId, int]], out: Path) -> None:
    """Writes OUT/nearest.csv: for each image the place, from 0, of the reference that DINO finds most like it."""
    lines = [(*(getattr(one, name) for name in IMAGE_COLUMNS), reference) for one, reference in nearest]
    frame = pd.DataFrame(lines, columns=[*IMAGE_COLUMNS, "reference"])
    write_text(frame.to_csv(index=False, lineterminator="\n"), out / NEAREST_FILE)


def read_nearest(out: Path) -> dict[ImageId, int]:
    """What OUT/nearest.csv holds; empty where an older bdkit scored the folder."""
    path = out / NEAREST_FILE
    if not path.exists():
        return {}
    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype={"method": str, "subject": str})
        columns = (frame[name].tolist() for name in IMAGE_COLUMNS)
        ids = [ImageId(*key) for key in zip(*columns, strict=True)]
        return dict(zip(ids, frame["reference"].astype(int).tolist(), strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); run `bdkit score {out}` again") from error

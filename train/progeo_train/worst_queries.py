"""The queries that an encoder gets most wrong, as numbers and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from progeo_edge import atomic
from progeo_edge.errors import SourceError
from progeo_edge.evaluation.labels import GroundTruth
from progeo_edge.evaluation.protocols import DescribedSet, RetrievalSet
from progeo_edge.evaluation.retrieval import Ranking
from progeo_edge.sources.images import FrameError, read_image
from progeo_train.run_log import Log

WRONG_SHOWN = 3
CELL_PX = (120, 160)
CAPTION_PX, GAP_PX, BORDER_PX = 16, 4, 3
BACKGROUND, TEXT = (255, 255, 255), (40, 40, 40)
QUERY, WRONG, RIGHT = (90, 90, 90), (200, 40, 40), (30, 150, 60)


@dataclass(frozen=True, slots=True)
class WorstQuery:
    """A query with a wrong answer among its candidates.

    Attributes:
        row: Of the queries.
        margin: Cosine of the first wrong answer minus that of the best positive: above 0 the first answer is wrong.
            Infinite when no positive could be described.
        wrong: Database rows of the best wrong answers, best first.
        wrong_similarities: Their cosines.
        positive: Database row of the best positive.
        positive_similarity: Its cosine.
    """

    row: int
    margin: float
    wrong: tuple[int, ...]
    wrong_similarities: tuple[float, ...]
    positive: int
    positive_similarity: float


def find_worst(ranking: Ranking, described: DescribedSet, truth: GroundTruth, count: int) -> tuple[WorstQuery, ...]:
    """Queries by how far the first wrong answer lies before the best positive, the worst first.

    Args:
        ranking: Of the queries.
        described: Unit rows; NaN where an image could not be read.
        truth: Queries without a positive, and queries that could not be read, are left out.
        count: At most so many.
    """
    if count == 0:
        return ()
    found = []
    for row, positives in enumerate(truth.positives):
        if len(positives) and (query := _judge(row, positives, ranking, described)) is not None:
            found.append(query)
    return tuple(sorted(found, key=lambda query: (-query.margin, query.row))[:count])


def grid_picture(images: RetrievalSet, worst: Sequence[WorstQuery]) -> NDArray[np.uint8]:
    """One line per query: the query, its best wrong answers, and its best positive.

    Args:
        images: Where the files lie.
        worst: At least one.

    Returns:
        (H, W, 3) uint8 RGB. An image that cannot be read is a grey field that says so.
    """
    lines = []
    for query in worst:
        cells = [_cell(images.queries[query.row], "query", QUERY)]
        answers = zip(query.wrong, query.wrong_similarities, strict=True)
        cells += [_cell(images.database[row], f"wrong {similarity:.3f}", WRONG) for row, similarity in answers]
        cells += [_empty_cell() for _ in range(WRONG_SHOWN - len(query.wrong))]
        cells.append(_cell(images.database[query.positive], f"right {query.positive_similarity:.3f}", RIGHT))
        lines.append(_joined(cells, axis=1))
    return _joined(lines, axis=0)


def write_pictures(
    sets: Mapping[str, RetrievalSet],
    worst: Mapping[str, Sequence[WorstQuery]],
    folder: Path,
    epoch: int,
    log: Log,
    step: int,
) -> list[Path]:
    """Write `SET-epoch-N.png` for every set that has such queries, and report the picture to the log.

    Raises:
        SourceError: the folder cannot be written.
    """
    files = []
    for name, queries in worst.items():
        picture = grid_picture(sets[name], queries)
        log.picture(f"worst queries/{name}", step, picture)
        files.append(folder / f"{name}-epoch-{epoch}.png")
        write_png(picture, files[-1])
    return files


def write_png(picture: NDArray[np.uint8], path: Path) -> None:
    """Write an (H, W, 3) uint8 RGB picture; its folder is created when missing.

    Raises:
        SourceError: it cannot be written.
    """
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture[:, :, ::-1]))
    assert done, "a picture of three channels can always be coded"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, data.tobytes())
    except OSError as error:
        raise SourceError(f"picture {path} cannot be written: {error.strerror or error}") from error


def _judge(row: int, positives: NDArray[np.int64], ranking: Ranking, described: DescribedSet) -> WorstQuery | None:
    """None for a query that could not be read, or that has no wrong answer among its candidates."""
    candidates, similarities = ranking.rows[row], ranking.similarities[row]
    is_wrong = (candidates >= 0) & ~np.isin(candidates, positives)
    if not is_wrong.any():
        return None
    to_positives = described.database[positives] @ described.queries[row]
    to_positives = np.where(np.isnan(to_positives), -np.inf, to_positives)
    best = int(np.argmax(to_positives))
    wrong = np.flatnonzero(is_wrong)[:WRONG_SHOWN]
    return WorstQuery(
        row=row,
        margin=float(similarities[wrong[0]] - to_positives[best]),
        wrong=tuple(int(candidates[place]) for place in wrong),
        wrong_similarities=tuple(float(similarities[place]) for place in wrong),
        positive=int(positives[best]),
        positive_similarity=float(to_positives[best]),
    )


def _cell(path: Path, caption: str, color: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The image, its aspect kept, in a frame of its colour above a caption."""
    cell = _empty_cell()
    inner = cell[BORDER_PX : CELL_PX[0] - BORDER_PX, BORDER_PX : CELL_PX[1] - BORDER_PX]
    cell[: CELL_PX[0]] = color
    inner[...] = _fitted(path, inner.shape[0], inner.shape[1])
    name = f"{caption}  {path.name}"[:26]
    cv2.putText(cell, name, (2, CELL_PX[0] + 12), cv2.FONT_HERSHEY_PLAIN, 0.75, TEXT, 1, cv2.LINE_AA)
    return cell


def _empty_cell() -> NDArray[np.uint8]:
    return np.full((CELL_PX[0] + CAPTION_PX, CELL_PX[1], 3), BACKGROUND, np.uint8)


def _fitted(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """The image in RGB, centred on grey."""
    canvas = np.full((height, width, 3), 128, np.uint8)
    try:
        image = read_image(path)
    except FrameError:
        cv2.putText(canvas, "cannot be read", (8, height // 2), cv2.FONT_HERSHEY_PLAIN, 0.9, TEXT, 1, cv2.LINE_AA)
        return canvas
    rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
    scale = min(height / rgb.shape[0], width / rgb.shape[1])
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    return canvas


def _joined(parts: Sequence[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Parts of equal size, side by side (axis 1) or one below the other (axis 0), with gaps."""
    shape = list(parts[0].shape)
    shape[axis] = GAP_PX
    gap = np.full(shape, BACKGROUND, np.uint8)
    pieces = [piece for part in parts for piece in (part, gap)][:-1]
    return np.concatenate(pieces, axis=axis)

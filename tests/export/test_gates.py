from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from progeo_edge.bundle import Precision
from progeo_edge.errors import InputError, ModelError
from progeo_export.errors import ExportError, GateError
from progeo_export.gates import LIMITS, check, interplace_loss, measure, recall_at_1, tolerances

COUNT, DIMENSION = 24, 16


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def descriptors(*, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    """(24, 16): 12 places in the database, then a query of each; `spread` is the size of what differs."""
    rng = np.random.default_rng(seed)
    common, places = rng.normal(size=DIMENSION), rng.normal(size=(COUNT // 2, DIMENSION))
    views = np.tile(places, (2, 1)) + 0.1 * rng.normal(size=(COUNT, DIMENSION))
    return unit(common + spread * views)


def truth() -> dict[str, np.ndarray]:
    place = np.tile(np.arange(COUNT // 2), 2)
    same = place[:, None] == place[None]
    return {"different_places": ~same, "same_place": same, "is_query": np.arange(COUNT) >= COUNT // 2}


def disturbed(rows: np.ndarray, size: float, seed: int = 1) -> np.ndarray:
    return unit(rows + size * np.random.default_rng(seed).normal(size=rows.shape))


def passing(precision: Precision) -> dict[str, float]:
    rows = descriptors()
    return measure(rows, rows.copy(), **truth())


def test_loss_is_what_loops_in_double_precision_give() -> None:
    reference, other = descriptors(), disturbed(descriptors(), 0.05)
    different = truth()["different_places"]
    a, b = reference.astype(np.float64), other.astype(np.float64)

    def cosine(u: np.ndarray, v: np.ndarray) -> float:
        return float(sum(x * y for x, y in zip(u, v, strict=True)) / np.sqrt((u**2).sum() * (v**2).sum()))

    between = [cosine(a[i], a[j]) for i in range(COUNT) for j in range(COUNT) if different[i, j]]
    losses = [(1 - cosine(a[i], b[i])) / (1 - sum(between) / len(between)) for i in range(COUNT)]
    result = interplace_loss(reference, other, different)
    assert result.mean == pytest.approx(sum(losses) / COUNT, rel=1e-9)
    assert result.max == pytest.approx(max(losses), rel=1e-9)
    assert result.mean_cosine_between_places == pytest.approx(sum(between) / len(between), rel=1e-9)


def test_loss_does_not_depend_on_which_pairs_are_unsure() -> None:
    """Leaving nearby places out of the mean makes it the mean over the rest."""
    reference = descriptors()
    different = np.zeros((COUNT, COUNT), np.bool_)
    different[0, 1] = different[1, 0] = True
    expected = float(reference[0].astype(np.float64) @ reference[1].astype(np.float64))
    assert interplace_loss(reference, reference, different).mean_cosine_between_places == pytest.approx(expected)


def test_recall_counts_the_nearest_of_queries_that_have_a_match() -> None:
    database = np.eye(4, dtype=np.float32)
    queries = unit(np.array([[1, 0.2, 0, 0], [0.9, 1, 0, 0], [0, 0.1, 0, 1], [0, 0, 1, 0.0]]))
    same = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], np.bool_)
    assert recall_at_1(queries, database, same) == pytest.approx(2 / 3)


def test_a_query_of_nan_finds_nothing() -> None:
    database = np.eye(2, dtype=np.float32)
    queries = np.array([[np.nan, 0], [0, 1]], np.float32)
    assert recall_at_1(queries, database, np.eye(2, dtype=np.bool_)) == 0.5


def test_measure_agrees_with_numpy() -> None:
    reference, other = descriptors(), disturbed(descriptors(), 0.3)
    figures = measure(reference, other, **truth())
    cosine = (reference.astype(np.float64) * other).sum(axis=1)
    half = COUNT // 2
    before = np.mean((reference[half:] @ reference[:half].T).argmax(axis=1) == np.arange(half))
    after = np.mean((other[half:] @ other[:half].T).argmax(axis=1) == np.arange(half))
    assert figures["min_cosine"] == pytest.approx(cosine.min(), abs=1e-6)
    assert figures["mean_cosine"] == pytest.approx(cosine.mean(), abs=1e-6)
    assert figures["max_norm_error"] < 1e-6
    assert (figures["recall_at_1_fp32"], figures["recall_at_1"]) == (before, after)
    assert figures["recall_at_1_drop"] == pytest.approx(before - after)
    assert measure(reference, np.float32(1.5) * other, **truth())["max_norm_error"] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_equal_graph_passes(precision: Precision) -> None:
    check(passing(precision), LIMITS[precision])


@pytest.mark.parametrize(
    ("precision", "figure", "inside", "outside", "limit", "remedy"),
    [
        ("fp32", "min_cosine", 0.999991, 0.999989, "at least 0.99999", "--opset"),
        ("fp32", "max_norm_error", 0.0009, 0.0011, "at most 0.001", "L2 norm"),
        ("fp32", "mean_cosine_between_places", 0.9998, 0.99995, "at most 0.9999", "trained"),
        ("fp16", "mean_cosine_between_places", 0.9998, 0.99995, "at most 0.9999", "trained"),
        ("fp16", "max_norm_error", 0.0009, 0.0011, "at most 0.001", "L2 norm"),
        ("fp16", "interplace_loss_mean", 0.02, 0.0201, "at most 0.02", "without --fp16"),
        ("fp16", "interplace_loss_max", 0.1, 0.101, "at most 0.1", "without --fp16"),
        ("fp16", "recall_at_1_drop", 0.0, 0.005, "at most 0", "without --fp16"),
        ("int8", "mean_cosine_between_places", 0.9998, 0.99995, "at most 0.9999", "trained"),
        ("int8", "max_norm_error", 0.0009, 0.0011, "at most 0.001", "L2 norm"),
        ("int8", "interplace_loss_mean", 0.15, 0.151, "at most 0.15", "at least 500"),
        ("int8", "interplace_loss_max", 1.0, 1.01, "at most 1", "at least 500"),
        ("int8", "recall_at_1_drop", 0.01, 0.0101, "at most 0.01", "at least 500"),
    ],
)
def test_every_limit_bites(
    precision: Precision, figure: str, inside: float, outside: float, limit: str, remedy: str
) -> None:
    check({**passing(precision), figure: inside}, LIMITS[precision])
    with pytest.raises(ExportError) as caught:
        check({**passing(precision), figure: outside}, LIMITS[precision], graph="the graph model.onnx")
    message = str(caught.value)
    for part in ("the graph model.onnx", figure, f"is {outside:.7g}", limit, remedy):
        assert part in message
    assert "\n" not in message


def test_a_refusal_keeps_every_figure() -> None:
    figures = {**passing("int8"), "interplace_loss_mean": 0.4}
    with pytest.raises(GateError) as caught:
        check(figures, LIMITS["int8"])
    assert caught.value.figures == figures


def test_the_table_above_has_every_limit() -> None:
    """A limit that is added without a line in the table would go untested."""
    assert sum(len(limits) for limits in LIMITS.values()) == 13


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_nan_is_refused(precision: Precision) -> None:
    reference, other = descriptors(), descriptors()
    other[3, 2] = np.nan
    with pytest.raises(ExportError, match=r"is nan.*NaN, infinite or zero"):
        check(measure(reference, other, **truth()), LIMITS[precision])


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_zero_and_infinite_descriptors_are_refused(value: float) -> None:
    reference, other = descriptors(), descriptors()
    other[3] = value
    with pytest.raises(ExportError, match="refused"):
        check(measure(reference, other, **truth()), LIMITS["fp16"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_collapsed_model_is_refused_although_its_cosines_are_high(precision: Precision) -> None:
    reference = descriptors(spread=0.002)
    other = disturbed(reference, 0.001)
    figures = measure(reference, other, **truth())
    assert figures["min_cosine"] > 0.999
    with pytest.raises(ExportError, match=r"mean_cosine_between_places.*nearly the same descriptor"):
        check(figures, LIMITS[precision])


def test_a_nearly_collapsed_model_is_refused_by_its_loss() -> None:
    """Below the collapse limit, the loss still shows what a cosine of 0.9999 hides."""
    reference = descriptors(spread=0.05)
    other = disturbed(reference, 0.01)
    figures = measure(reference, other, **truth())
    assert figures["min_cosine"] > 0.99
    assert figures["mean_cosine_between_places"] < 0.9999
    with pytest.raises(ExportError, match="interplace_loss_mean"):
        check(figures, LIMITS["fp16"])


def test_equal_descriptors_everywhere_divide_by_nothing() -> None:
    rows = np.tile(descriptors()[:1], (COUNT, 1))
    with pytest.raises(ExportError, match="mean_cosine_between_places"):
        check(measure(rows, rows, **truth()), LIMITS["fp32"])


def test_a_gate_that_did_not_run_has_failed() -> None:
    with pytest.raises(ExportError, match="recall_at_1_drop is missing"):
        check({k: v for k, v in passing("fp16").items() if k != "recall_at_1_drop"}, LIMITS["fp16"])


def test_the_error_is_one_that_commands_print() -> None:
    assert issubclass(ExportError, ModelError)


def test_tolerances_name_the_measured_figures() -> None:
    for limits in LIMITS.values():
        assert set(tolerances(limits)) <= set(passing("fp32"))
        for limit in limits:
            assert (limit.side == "at least") == limit.figure.startswith("min_")


@pytest.mark.parametrize(
    "change",
    [
        {"different_places": np.zeros((COUNT, COUNT), np.bool_)},
        {"different_places": np.ones((COUNT, 3), np.bool_)},
        {"same_place": np.zeros((COUNT, COUNT), np.bool_)},
    ],
)
def test_truth_that_does_not_fit_is_named(change: dict[str, Any]) -> None:
    rows = descriptors()
    with pytest.raises(InputError, match="shape"):
        measure(rows, rows, **{**truth(), **change})


def test_descriptors_of_other_shapes_are_named() -> None:
    with pytest.raises(InputError, match=r"\(24, 16\) and \(24, 15\)"):
        measure(descriptors(), descriptors()[:, :15], **truth())

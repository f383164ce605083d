"""What of an outcome a SLAM system can use: metric closures between keyframes of this run, as constraints."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from progeo_edge.constraints import metric_constraint
from progeo_edge.errors import InputError
from progeo_edge.geometry import FloatArray
from progeo_edge.map_rows import KeyframeInfo
from progeo_edge.types import Transform
from progeo_ros.adapters import Counters
from progeo_ros.events import Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredClosure:
    """A metric loop closure between two keyframes of the same run.

    Attributes:
        query: The later keyframe: the one just made, or before it when the closure was withheld until now.
        reference: The earlier one, of the same session.
        T_reference_query: Pose of the query's base in the reference's base, metres.
        covariance: (6, 6) of it, x y z rx ry rz, right perturbation, positive definite.
    """

    query: KeyframeInfo
    reference: KeyframeInfo
    T_reference_query: Transform
    covariance: FloatArray


def measured_closures(outcome: Outcome, counters: Counters) -> Iterator[MeasuredClosure]:
    """The closures of an outcome that a SLAM system of this run can use; the others are counted by their reason.

    `not_metric`: without metres. `other_session`: to a keyframe of another run, which the SLAM system does not know; so
    are all closures of relocalisation, which makes no keyframe. `bad_covariance`: singular, or a pose that is not
    rigid; a constraint without a weight could only do harm.
    """
    for closure in outcome.closures:
        query, reference = outcome.query(closure), outcome.reference(closure.reference_id)
        if query is None or reference.session != query.session:
            counters.add("other_session")
            continue
        try:
            constraint = metric_constraint(closure)
        except InputError as error:
            counters.add("bad_covariance")
            log.warning("a closure is not passed on: %s", error)
            continue
        if constraint is None:
            counters.add("not_metric")
            continue
        yield MeasuredClosure(query, reference, constraint.T_first_second, constraint.covariance)

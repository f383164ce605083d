"""What each status means, in a sentence for people, with what to do about it."""

from __future__ import annotations

from progeo_edge.types import Status

MEANING: dict[Status, str] = {
    Status.ACCEPTED: "A loop closure.",
    Status.NOT_A_KEYFRAME: "The robot had hardly moved since the last keyframe.",
    Status.UNRECOGNISABLE: "The image is blank, covered or dark: nothing in it could be recognised.",
    Status.NO_CANDIDATE: "Nothing in the map was old enough to be a revisit.",
    Status.LOW_SIMILARITY: "No place in the map looks alike enough.",
    Status.SUPPRESSED: "A better candidate stands for the same place.",
    Status.FAILED_SEQUENCE: "The keyframes just before did not point to this place.",
    Status.NOT_VERIFIED: "Better candidates used up the budget of verifications (budget.max_verifications).",
    Status.DEADLINE: "The time for one query ran out (budget.deadline_ms).",
    Status.FEW_MATCHES: "Too few keypoints match: another place, or the view changed too much.",
    Status.FEW_INLIERS: "Keypoints match, but not with one geometry: most likely another place that looks alike.",
    Status.LOW_INLIER_RATIO: "Most matches contradict the geometry of the rest.",
    Status.LOW_COVERAGE: "The agreeing keypoints crowd on one object: it may stand in another place.",
    Status.HIGH_REPROJECTION_ERROR: "The geometry fits badly: check the camera's calibration.",
    Status.DEGENERATE: "The scene does not determine a pose.",
    Status.TOO_FAR: "The two views would be too far apart for one place (verification.max_translation_m).",
    Status.INCONSISTENT_POSES: "There and back give different poses: check depth or calibration.",
    Status.GRAVITY: "Roll and pitch contradict the odometry's vertical.",
    Status.ODOM_INCONSISTENT: "The pose contradicts the odometry by more than its drift allows.",
    Status.CONTRADICTED: "It contradicts other closures nearby, more of them than agree with it.",
    Status.UNCONFIRMED: "No other closure agrees with it yet (consistency.pcm).",
    Status.FROZEN: "The camera delivers the same picture over and over: restart it.",
    Status.AMBIGUOUS: "Two places of the map explain the frames about equally well; drive on.",
}


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: "no closure", "1 closure", "12 closures"."""
    words = singular if number == 1 else plural or f"{singular}s"
    return f"{number or 'no'} {words}"

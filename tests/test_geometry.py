from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.errors import InputError
from progeo_edge.geometry import (
    Camera,
    adjoint,
    check_transform,
    invert,
    make_transform,
    quaternion_xyzw,
    rotation_angle,
    rotation_exp,
    rotation_log,
    se3_exp,
    se3_log,
    skew,
    transform_from_quaternion,
)

number = st.floats(-10, 10, allow_nan=False)
vector = st.tuples(number, number, number).map(np.array)


def _turned(v):
    """Rotation vectors of at most 3 rad: beyond pi the logarithm is another vector of the same rotation."""
    norm = np.linalg.norm(v)
    return v * min(1.0, 3.0 / norm) if norm > 0 else v


rotation_vector = vector.map(_turned)
transform = st.builds(lambda r, t: make_transform(rotation_exp(r), t), rotation_vector, vector)
twist = st.builds(lambda t, r: np.concatenate([t, r]), vector, rotation_vector)

PINHOLE = Camera(
    "pinhole",
    640,
    480,
    np.array([[420.0, 0, 317.0], [0, 425.0, 242.0], [0, 0, 1]]),
    np.array([-0.25, 0.08, 0.001, -0.0005, -0.01]),
)
PLAIN = Camera("pinhole", 640, 480, PINHOLE.K)
FISHEYE = Camera(
    "fisheye", 640, 480, np.array([[260.0, 0, 319.5], [0, 258, 239.5], [0, 0, 1]]), np.array([0.03, -0.01, 0.002, 0.0])
)
CAMERAS = pytest.mark.parametrize("camera", [PLAIN, PINHOLE, FISHEYE], ids=["plain", "distorted", "fisheye"])


@given(transform, transform, vector)
def test_transforms_compose(T_a_b, T_b_c, p_c):
    p_b = T_b_c[:3, :3] @ p_c + T_b_c[:3, 3]
    p_a = T_a_b[:3, :3] @ p_b + T_a_b[:3, 3]
    np.testing.assert_allclose((T_a_b @ T_b_c @ np.append(p_c, 1))[:3], p_a, atol=1e-9)


@given(transform)
def test_the_inverse_undoes(T):
    np.testing.assert_allclose(T @ invert(T), np.eye(4), atol=1e-10)
    np.testing.assert_allclose(invert(T) @ T, np.eye(4), atol=1e-10)


@given(vector, vector)
def test_skew_is_the_cross_product(a, b):
    np.testing.assert_allclose(skew(a) @ b, np.cross(a, b), atol=1e-9)


@given(rotation_vector)
def test_rotation_log_undoes_exp(v):
    np.testing.assert_allclose(rotation_log(rotation_exp(v)), v, atol=1e-8)
    assert rotation_angle(rotation_exp(v)) == pytest.approx(np.linalg.norm(v), abs=1e-6)


@given(twist)
def test_se3_log_undoes_exp(xi):
    np.testing.assert_allclose(se3_log(se3_exp(xi)), xi, atol=1e-6)


@given(twist)
def test_se3_exp_of_a_sum_along_one_screw_is_the_product(xi):
    np.testing.assert_allclose(se3_exp(0.3 * xi) @ se3_exp(0.7 * xi), se3_exp(xi), atol=1e-8)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.99e-4, 1.01e-4, 1e-3])
def test_se3_exp_is_smooth_where_the_series_takes_over(angle):
    axis = np.array([0.6, -0.0, 0.8])
    T = se3_exp(np.concatenate([[1.0, 2.0, 3.0], angle * axis]))
    first_order = np.array([1.0, 2.0, 3.0]) + 0.5 * angle * np.cross(axis, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(T[:3, 3], first_order, atol=max(angle**2, 1e-12))


@given(transform, twist)
def test_the_adjoint_moves_a_twist_to_the_other_side(T, xi):
    xi = 0.1 * xi
    np.testing.assert_allclose(T @ se3_exp(xi) @ invert(T), se3_exp(adjoint(T) @ xi), atol=1e-6)


@given(transform, transform)
def test_adjoints_compose(T_a_b, T_b_c):
    np.testing.assert_allclose(adjoint(T_a_b) @ adjoint(T_b_c), adjoint(T_a_b @ T_b_c), atol=1e-8)


@given(transform)
def test_quaternions_round_trip(T):
    q = quaternion_xyzw(T[:3, :3])
    assert np.linalg.norm(q) == pytest.approx(1.0) and q[3] >= 0
    np.testing.assert_allclose(transform_from_quaternion(T[:3, 3], 2.5 * q), T, atol=1e-6)


@pytest.mark.parametrize("q", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [0, 0, 0, np.inf]])
def test_a_quaternion_without_direction_is_refused(q):
    with pytest.raises(InputError, match="quaternion"):
        transform_from_quaternion([0, 0, 0], q)


@given(transform)
def test_rigid_transforms_pass_the_check(T):
    np.testing.assert_array_equal(check_transform(T.tolist(), "T"), T)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda T: T[:3], "shape"),
        (lambda T: np.where(np.eye(4) > 0, np.nan, T), "NaN"),
        (lambda T: 2 * T, "not rigid"),
        (lambda T: np.diag([1.0, 1.0, -1.0, 1.0]), "not rigid"),
        (lambda T: T + np.eye(4, k=-3), "not rigid"),
    ],
)
def test_other_transforms_do_not(change, said):
    with pytest.raises(InputError, match=said):
        check_transform(change(np.eye(4)), "T_odom_base")


@CAMERAS
@settings(max_examples=50)
@given(st.tuples(st.floats(-0.6, 0.6), st.floats(-0.45, 0.45), st.floats(0.5, 50)))
def test_normalise_undoes_project(camera, ray_and_depth):
    x, y, z = ray_and_depth
    pixels = camera.project([[x * z, y * z, z]])
    np.testing.assert_allclose(camera.normalise(pixels), [[x, y]], atol=2e-4)


@CAMERAS
@settings(max_examples=50)
@given(st.tuples(st.floats(-0.6, 0.6), st.floats(-0.45, 0.45), st.floats(0.5, 50)))
def test_slopes_are_those_of_finite_differences(camera, ray_and_depth):
    x, y, z = ray_and_depth
    point, step = np.array([x * z, y * z, z]), 1e-5 * z
    ahead, behind = camera.project(point + step * np.eye(3)), camera.project(point - step * np.eye(3))
    slopes = camera.project_slopes([point])[0]
    np.testing.assert_allclose(slopes, ((ahead - behind) / (2 * step)).T, atol=1e-3 * np.abs(slopes).max())


def test_an_ideal_pinhole_projects_as_opencv_does():
    points = np.random.default_rng(0).uniform((-3, -2, 1), (3, 2, 9), (50, 3))
    camera = Camera("pinhole", 640, 480, np.array([[420.0, 0, 311], [0, 430.0, 233], [0, 0, 1]]))
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.K, None)[0].reshape(-1, 2)
    np.testing.assert_allclose(camera.project(points), expected, atol=1e-9)


@CAMERAS
def test_no_points_give_no_points(camera):
    assert camera.project(np.zeros((0, 3))).shape == (0, 2)
    assert camera.project_slopes(np.zeros((0, 3))).shape == (0, 2, 3)
    assert camera.normalise(np.zeros((0, 2))).shape == (0, 2)


@CAMERAS
@settings(max_examples=30)
@given(st.integers(1, 4), st.tuples(st.floats(-0.5, 0.5), st.floats(-0.4, 0.4)))
def test_a_scaled_camera_sees_the_scaled_pixel(camera, factor, ray):
    points = np.array([[*ray, 1.0]])
    scaled = camera.scaled_to(640 * factor, 480 * factor)
    expected = (camera.project(points) + 0.5) * factor - 0.5
    np.testing.assert_allclose(scaled.project(points), expected, atol=1e-6)


def test_a_camera_fits_images_of_its_aspect_ratio_only():
    assert PINHOLE.for_image_size(640, 480) is PINHOLE
    assert PINHOLE.for_image_size(320, 240).K[0, 0] == pytest.approx(210.0)
    assert PINHOLE.for_image_size(160, 119).height_px == 119
    with pytest.raises(InputError, match="640x360"):
        PINHOLE.for_image_size(640, 360)

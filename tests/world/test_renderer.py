"""Depth and texture against independent ray casting and projection, on hand-made scenes and on the street."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from progeo_edge.errors import InputError
from progeo_edge.geometry import Camera, invert, make_transform, rotation_exp
from progeo_edge.world import DAY, Lighting, World, forward_camera
from progeo_edge.world.scene import Quad, Scene, Texture, wall

CLEAN = Lighting(sun=0.0, ambient=1.0, haze=0.0, vignetting=0.0, blur_px=0.0, noise_std=0.0)
LOOK_EAST = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])


def texture(value=200, size=64, opacity=0):
    image = np.full((size, size, 4), value, np.uint8)
    image[:, :, 3] = opacity
    return Texture(image)


def world_of(*quads):
    return World(Scene(quads=quads, low_xy=(-20, -20), high_xy=(40, 20)), seed=0)


def east_camera(yaw_deg=0.0, xyz=(0.0, 0.0, 1.5)):
    return make_transform(rotation_exp([0, 0, np.deg2rad(yaw_deg)]) @ LOOK_EAST, xyz)


def cast_rays(quads, camera, T_world_camera, pixels):
    """Depth of the nearest quad on each ray by plane intersection and a point-in-parallelogram test."""
    rays = np.column_stack([camera.normalise(pixels), np.ones(len(pixels))]) @ T_world_camera[:3, :3].T
    eye = T_world_camera[:3, 3]
    depth = np.full(len(pixels), np.inf)
    for quad in quads:
        if quad.normal @ (eye - quad.origin_m) <= 0:
            continue
        slope = rays @ quad.normal
        distance = np.where(slope < 0, ((quad.origin_m - eye) @ quad.normal) / np.where(slope < 0, slope, -1), np.inf)
        hit = eye + np.where(np.isfinite(distance), distance, 0)[:, None] * rays - quad.origin_m
        u = hit @ quad.edge_u_m / (quad.edge_u_m @ quad.edge_u_m)
        v = hit @ quad.edge_v_m / (quad.edge_v_m @ quad.edge_v_m)
        inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1) & (distance > 0.05)
        if quad.cutout:
            image = quad.texture.image
            rows = np.clip((v * image.shape[0]).astype(int), 0, image.shape[0] - 1)
            columns = np.clip((u * image.shape[1]).astype(int), 0, image.shape[1] - 1)
            inside &= image[rows, columns, 3] > 127
        depth = np.where(inside, np.minimum(depth, distance), depth)
    return np.where(np.isfinite(depth), depth, 0.0)


def all_pixels(camera, step=3):
    x, y = np.meshgrid(np.arange(1, camera.width_px, step), np.arange(1, camera.height_px, step))
    return np.column_stack([x.ravel(), y.ravel()])


def test_depth_of_an_oblique_wall_is_the_ray_plane_intersection():
    quad = wall((10.0, 30.0), (14.0, -30.0), -30.0, 30.0, texture())
    camera = forward_camera(160, 120)
    pose = east_camera(yaw_deg=12.0)
    _, depth_m = world_of(quad).render(camera, pose, CLEAN)
    x, y = np.meshgrid(np.arange(160), np.arange(120))
    rays = np.stack([x, y, np.ones_like(x)], axis=2) @ np.linalg.inv(camera.K).T @ pose[:3, :3].T
    expected = (quad.origin_m - pose[:3, 3]) @ quad.normal / (rays @ quad.normal)
    np.testing.assert_allclose(depth_m, expected, rtol=1e-4)


@pytest.mark.parametrize("index", [20, 130, 320, 560])
def test_street_depth_agrees_with_brute_force_ray_casting(street, drive, camera, index):
    pose = drive[index].T_world_base @ camera.T_base_camera
    _, depth_m = street.render(camera, pose)
    pixels = all_pixels(camera)
    expected = cast_rays(street.scene.quads, camera, pose, pixels)
    found = depth_m[pixels[:, 1], pixels[:, 0]]
    agree = np.abs(found - expected) <= 1e-3 * np.maximum(expected, 1)
    assert agree.mean() > 0.95, "only outlines, which are up to a pixel too wide, may differ"
    low, high = (
        change(depth_m, np.ones((5, 5), np.uint8))[pixels[:, 1], pixels[:, 0]] for change in (cv2.erode, cv2.dilate)
    )
    inner = (low > 0) & (high < 1.1 * low)
    assert inner.mean() > 0.3
    assert agree[inner].mean() > 0.98
    assert np.median(np.abs(found - expected)[inner] / expected[inner]) < 1e-5


@pytest.mark.parametrize("model", ["fisheye", "distorted"])
def test_depth_through_a_lens_agrees_with_ray_casting(street, drive, camera, fisheye, model):
    lens = fisheye if model == "fisheye" else replace(camera, distortion=np.array([-0.2, 0.05, 0.001, -0.002]))
    pose = drive[60].T_world_base @ lens.T_base_camera
    _, depth_m = street.render(lens, pose)
    pixels = all_pixels(lens, 4)
    angle = np.hypot(*lens.normalise(pixels).T)
    pixels = pixels[angle < np.tan(np.deg2rad(70))]
    expected = cast_rays(street.scene.quads, lens, pose, pixels)
    found = depth_m[pixels[:, 1], pixels[:, 0]]
    assert (np.abs(found - expected) <= 2e-3 * np.maximum(expected, 1)).mean() > 0.95


def test_fisheye_is_black_beyond_its_angle(street, drive, fisheye):
    wide = replace(fisheye, K=np.array([[45.0, 0, 99.5], [0, 45.0, 74.5], [0, 0, 1]]))
    image, depth_m = street.render(wide, drive[60].T_world_base @ wide.T_base_camera, CLEAN)
    assert image[0, 0].max() == 0
    assert depth_m[0, 0] == 0
    assert depth_m[100, 100] > 0


@pytest.mark.parametrize("model", ["pinhole", "distorted", "fisheye"])
def test_a_painted_dot_appears_where_the_camera_projects_it(camera, fisheye, model):
    picture = np.zeros((256, 256, 4), np.uint8)
    cv2.circle(picture, (180, 90), 6, (255, 255, 255, 0), -1)
    quad = wall((6.0, 4.0), (7.0, -4.0), -2.0, 5.0, Texture(picture))
    lens = {
        "pinhole": camera,
        "distorted": replace(camera, distortion=np.array([-0.2, 0.05, 0, 0])),
        "fisheye": fisheye,
    }[model]
    pose = east_camera(yaw_deg=5.0)
    image, _ = world_of(quad).render(lens, pose, replace(CLEAN, sky=0.0))
    rows, columns = np.nonzero(image[:, :, 0] > 60)
    weights = image[rows, columns, 0].astype(float)
    centroid = np.array([np.average(columns, weights=weights), np.average(rows, weights=weights)])
    dot = quad.origin_m + 180.5 / 256 * quad.edge_u_m + 90.5 / 256 * quad.edge_v_m
    expected = lens.project((invert(pose) @ np.append(dot, 1.0))[None, :3])[0]
    assert np.linalg.norm(centroid - expected) < 0.5


def test_the_nearer_wall_hides_the_farther_one_in_either_order(camera):
    near, far = wall((5, 1), (5, -1), 0, 3, texture(250)), wall((9, 9), (9, -9), -9, 9, texture(60))
    for quads in ((near, far), (far, near)):
        image, depth_m = world_of(*quads).render(camera, east_camera(), CLEAN)
        assert depth_m[75, 100] == pytest.approx(5 / np.cos(0), rel=1e-3)
        assert image[75, 100, 0] > 150
        assert depth_m[75, 5] == pytest.approx(9, rel=1e-3)


def test_clear_parts_of_a_cutout_show_what_is_behind(camera):
    picture = np.full((64, 64, 4), 255, np.uint8)
    picture[:, 32:, 3] = 0
    flat = wall((5, 3), (5, -3), -3, 6, Texture(picture))
    leaf = Quad(flat.origin_m, flat.edge_u_m, flat.edge_v_m, flat.texture, cutout=True)
    behind = wall((9, 20), (9, -20), -20, 20, texture())
    _, depth_m = world_of(leaf, behind).render(camera, east_camera(), CLEAN)
    assert depth_m[75, 60] == pytest.approx(5, rel=1e-3)
    assert depth_m[75, 140] == pytest.approx(9, rel=1e-3)


@pytest.mark.parametrize("x_m", [5.0, 6.0], ids=["in its plane", "behind it"])
def test_a_wall_seen_edge_on_or_from_behind_is_invisible(camera, x_m):
    quad = wall((5, 3), (5, -3), 0, 3, texture())
    image, depth_m = world_of(quad).render(camera, east_camera(xyz=(x_m, 0.0, 1.5), yaw_deg=90.0), CLEAN)
    assert not depth_m.any()
    assert image.any(), "the sky is still there"


@pytest.mark.parametrize("y_m", [-0.02, -0.005, -0.001])
def test_a_wall_almost_edge_on_gets_no_depth_beyond_its_ends(camera, y_m):
    quad = wall((10, 0), (6, 0), -3, 6, texture())
    for pixels in (0.0, 0.3, 0.7):
        _, depth_m = world_of(quad).render(camera, east_camera(yaw_deg=10 + pixels * 0.4, xyz=(0, -y_m, 1.5)), CLEAN)
        seen = depth_m[depth_m > 0]
        assert ((seen > 5.5) & (seen < 10.5)).all()


def test_fine_texture_far_away_turns_grey_instead_of_shimmering(camera):
    checks = np.zeros((512, 512, 4), np.uint8)
    checks[:, :, :3] = 255 * (np.indices((512, 512)).sum(axis=0) % 2)[:, :, None]
    quad = wall((20, 2), (20, -2), -1, 4, Texture(checks))
    image, depth_m = world_of(quad).render(camera, east_camera(), CLEAN)
    seen = cv2.erode((depth_m > 0).astype(np.uint8), np.ones((5, 5))) > 0
    assert seen.sum() > 300
    assert image[seen].std() < 3 * image[seen].mean(axis=0).std() + 3
    assert 90 < image[seen].mean() < 165


def warp_to(points_px, depth_m, camera, T_other_this):
    rays = np.column_stack([camera.normalise(points_px), np.ones(len(points_px))])
    points = (rays * depth_m[:, None]) @ T_other_this[:3, :3].T + T_other_this[:3, 3]
    return camera.project(points), points[:, 2]


def sample(picture, points_px):
    x, y = points_px.astype(np.float32).T
    return cv2.remap(picture, x[:, None], y[:, None], cv2.INTER_LINEAR)[:, 0]


def test_two_views_agree_through_their_depth(street, drive, camera):
    pose_a, pose_b = (drive[i].T_world_base @ camera.T_base_camera for i in (30, 31))
    (image_a, depth_a), (image_b, depth_b) = street.render(camera, pose_a, CLEAN), street.render(camera, pose_b, CLEAN)
    pixels = all_pixels(camera)
    depth = depth_a[pixels[:, 1], pixels[:, 0]]
    pixels, depth = pixels[depth > 0], depth[depth > 0]
    seen_px, seen_depth = warp_to(pixels, depth, camera, invert(pose_b) @ pose_a)
    inside = (seen_px > 2).all(axis=1) & (seen_px < [camera.width_px - 3, camera.height_px - 3]).all(axis=1)
    pixels, seen_px, seen_depth = pixels[inside], seen_px[inside], seen_depth[inside]
    same_surface = np.abs(sample(depth_b, seen_px) - seen_depth) < 0.02 * seen_depth
    assert same_surface.mean() > 0.9
    colour_a, colour_b = image_a[pixels[:, 1], pixels[:, 0]].astype(float), sample(image_b, seen_px).astype(float)
    error = np.abs(colour_a - colour_b)[same_surface].mean()
    unaligned = np.abs(colour_a - image_b[pixels[:, 1], pixels[:, 0]])[same_surface].mean()
    assert error < 0.5 * unaligned
    assert error < 12


def test_disparity_is_focal_length_times_baseline_over_depth(street, drive):
    camera = forward_camera(200, 150, baseline_m=0.3)
    pose = drive[30].T_world_base @ camera.T_base_camera
    left, right, depth_m = street.render_stereo(camera, pose, CLEAN)
    pixels = all_pixels(camera)
    depth = depth_m[pixels[:, 1], pixels[:, 0]]
    keep = (depth > 0) & (depth < 25) & (pixels[:, 0] > 45)
    pixels, depth = pixels[keep], depth[keep]
    disparity = camera.K[0, 0] * 0.3 / depth
    seen = left[pixels[:, 1], pixels[:, 0]].astype(float)

    def error(extra_px):
        shifted = np.column_stack([pixels[:, 0] - disparity - extra_px, pixels[:, 1]])
        return np.median(np.abs(seen - sample(right, shifted)))

    errors = {extra: error(extra) for extra in (-2.0, -1.0, 0.0, 1.0, 2.0)}
    assert min(errors, key=errors.__getitem__) == 0.0
    assert errors[0.0] < 0.6 * min(errors[-2.0], errors[2.0])


def test_stereo_needs_a_baseline(street, camera):
    with pytest.raises(InputError, match="baseline_m"):
        street.render_stereo(camera, np.eye(4))


def test_a_pose_that_is_not_rigid_is_refused(street, camera):
    with pytest.raises(InputError, match="T_world_camera"):
        street.render(camera, 2 * np.eye(4))


def test_the_same_view_is_the_same_picture_bit_by_bit(street, drive, camera):
    pose = drive[60].T_world_base @ camera.T_base_camera
    (image, depth_m), (again, depth_again) = street.render(camera, pose, DAY), street.render(camera, pose, DAY)
    assert np.array_equal(image, again)
    assert np.array_equal(depth_m, depth_again)


def test_images_and_depth_have_the_promised_types_and_range(street, drive, camera):
    for index in (0, 100, 400):
        image, depth_m = street.render(camera, drive[index].T_world_base @ camera.T_base_camera)
        assert image.shape == (150, 200, 3)
        assert image.dtype == np.uint8
        assert depth_m.dtype == np.float32
        assert np.isfinite(depth_m).all()
        assert depth_m[depth_m > 0].min() > 0.2
        assert depth_m.max() < 130
        assert image.std() > 20


def test_camera_of_one_lens_can_be_mounted_anywhere(street, drive, fisheye):
    turned = replace(fisheye, T_base_camera=np.eye(4))
    assert isinstance(turned, Camera)
    pose = drive[60].T_world_base @ fisheye.T_base_camera
    assert np.array_equal(street.render(fisheye, pose)[0], street.render(turned, pose)[0])

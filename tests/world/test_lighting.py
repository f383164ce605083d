"""Light and sensor change the picture, never the geometry."""

from dataclasses import replace

import numpy as np
import pytest

from progeo_edge.world import DAY, EVENING, NIGHT, OVERCAST, Lighting
from progeo_edge.world.scene import Scene, Solid, Texture, slab
from progeo_edge.world.sensor import expose
from progeo_edge.world.shading import LIGHT_ONE, LightBaker

PLAIN = Lighting(haze=0.0, vignetting=0.0, blur_px=0.0, noise_std=0.0)


def grey(value, size=64):
    return np.full((size, size, 3), value, np.uint8)


@pytest.mark.parametrize("lighting", [EVENING, OVERCAST, NIGHT], ids=["evening", "overcast", "night"])
def test_another_light_changes_the_picture_but_no_depth(street, drive, camera, lighting):
    pose = drive[60].T_world_base @ camera.T_base_camera
    (day, depth_day), (other, depth_other) = street.render(camera, pose, DAY), street.render(camera, pose, lighting)
    assert np.array_equal(depth_day, depth_other)
    assert np.abs(day.astype(int) - other).mean() > 8


def test_night_is_dark_but_windows_glow(street, drive, camera):
    pose = drive[60].T_world_base @ camera.T_base_camera
    day, night = street.render(camera, pose, DAY)[0], street.render(camera, pose, NIGHT)[0]
    unlit = street.render(camera, pose, replace(NIGHT, lamps=0.0))[0]
    assert night.mean() < 0.6 * day.mean()
    assert np.percentile(night, 99) > np.percentile(unlit, 99) + 30


def test_exposure_brightens_and_gamma_darkens_the_middle():
    middle = expose(grey(100), PLAIN).mean()
    assert expose(grey(100), replace(PLAIN, exposure=1.3)).mean() > middle + 20
    assert expose(grey(100), replace(PLAIN, gamma=1.3)).mean() < middle - 10
    assert middle == pytest.approx(100, abs=1)


def test_contrast_spreads_about_middle_grey():
    more = replace(PLAIN, contrast=1.4)
    assert expose(grey(60), more).mean() < 60 - 10
    assert expose(grey(190), more).mean() > 190 + 10


def test_warm_light_is_redder_and_cold_light_is_bluer():
    blue_warm, _, red_warm = expose(grey(120), replace(PLAIN, warmth=0.8)).mean(axis=(0, 1))
    blue_cold, _, red_cold = expose(grey(120), replace(PLAIN, warmth=-0.8)).mean(axis=(0, 1))
    assert red_warm > blue_warm + 20
    assert blue_cold > red_cold + 20


def test_vignetting_darkens_the_corners_only():
    image = expose(grey(150, 65), replace(PLAIN, vignetting=0.4))
    assert image[32, 32, 0] == pytest.approx(150, abs=1)
    assert image[0, 0, 0] == pytest.approx(150 * 0.6, abs=2)


def test_noise_has_the_stated_deviation_and_follows_its_seed():
    noisy = replace(PLAIN, noise_std=4.0, noise_seed=3)
    image = expose(grey(120, 200), noisy).astype(float)
    assert image.std() == pytest.approx(4.0, rel=0.1)
    assert image.mean() == pytest.approx(120, abs=0.3)
    assert np.array_equal(image, expose(grey(120, 200), noisy))
    assert not np.array_equal(image, expose(grey(120, 200), replace(noisy, noise_seed=4)))


def test_noise_covers_images_larger_than_its_bank():
    image = expose(np.full((1100, 2100, 3), 120, np.uint8), replace(PLAIN, noise_std=4.0))
    assert image[-100:, -100:].std() > 3


def test_a_tower_throws_its_shadow_away_from_the_sun():
    ground = slab((-10, -10), (10, 10), 0.0, Texture(np.full((32, 32, 4), 128, np.uint8)))
    tower = Solid(np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]), 4.0)
    scene = Scene(quads=(ground,), low_xy=(-10, -10), high_xy=(10, 10), solids=(tower,))
    light = LightBaker(scene, Lighting(sun_azimuth_deg=0.0, sun_elevation_deg=45.0)).bake(ground).astype(int)
    rows, columns = light.shape[:2]

    def at(x, y):
        return light[round((10 - y) / 20 * (rows - 1)), round((x + 10) / 20 * (columns - 1))].mean()

    assert at(-3.5, 0) < at(4, 0) - 40, "the sun stands in the east: shadow in the west"
    assert at(-7, 0) == pytest.approx(at(7, 0), abs=3), "the shadow is as long as the tower is high"
    assert at(4, 0) > LIGHT_ONE

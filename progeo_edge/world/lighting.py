"""Light and sensor: what changes between two visits of one place while its geometry stays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lighting:
    """Conditions under which one frame is taken. Nothing in it moves a pixel, apart from `blur_px`.

    Attributes:
        sun_azimuth_deg: Where the sun stands, counter-clockwise from the world's x axis.
        sun_elevation_deg: Its height above the horizon.
        sun: Strength of the direct light; 0 for an overcast sky.
        ambient: Strength of the light from the sky.
        lamps: Strength of street lamps and lit windows; 0 by day.
        sky: Brightness of the sky itself.
        exposure: Factor on the linear brightness.
        contrast: Slope about middle grey.
        gamma: Exponent after that; above 1 darkens the middle tones.
        warmth: Colour temperature: -1 blue, 0 neutral, 1 orange.
        haze: Share of haze at 100 m.
        vignetting: Loss of light in the corners, 0 to 1.
        blur_px: Standard deviation of the optics' point spread.
        noise_std: Sensor noise in grey levels.
        noise_seed: Which noise; the same seed gives the same picture.
    """

    sun_azimuth_deg: float = 250.0
    sun_elevation_deg: float = 52.0
    sun: float = 0.8
    ambient: float = 0.66
    lamps: float = 0.0
    sky: float = 1.0
    exposure: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0
    warmth: float = 0.0
    haze: float = 0.12
    vignetting: float = 0.18
    blur_px: float = 0.55
    noise_std: float = 2.0
    noise_seed: int = 0

    def sun_direction(self) -> NDArray[np.float64]:
        """(3,) unit vector from the ground to the sun, in the world frame."""
        azimuth, elevation = np.deg2rad([self.sun_azimuth_deg, self.sun_elevation_deg])
        return np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])

    def sun_colour(self) -> NDArray[np.float64]:
        """(3,) BGR factor of direct light: yellower the lower the sun stands."""
        low = np.clip(1.0 - self.sun_elevation_deg / 45.0, 0.0, 1.0)
        return self.sun * np.array([1.0 - 0.45 * low, 1.0 - 0.16 * low, 1.0 + 0.05 * low])

    def ambient_colour(self) -> NDArray[np.float64]:
        """(3,) BGR factor of sky light: slightly blue."""
        return self.ambient * np.array([1.1, 1.0, 0.94])

    def with_other_noise(self) -> Lighting:
        """The same light on another sensor: the right one of a stereo pair."""
        return replace(self, noise_seed=self.noise_seed + 1_000_003)

    def baked_key(self) -> tuple[float, ...]:
        """What of it is baked into the light maps."""
        return (self.sun_azimuth_deg, self.sun_elevation_deg, self.sun, self.ambient, self.lamps)


DAY = Lighting()
EVENING = Lighting(
    sun_azimuth_deg=160.0, sun_elevation_deg=26.0, sun=0.8, ambient=0.56, sky=0.9, exposure=0.98, warmth=0.35, haze=0.2
)
OVERCAST = Lighting(sun=0.0, ambient=0.98, sky=0.85, contrast=0.92, warmth=-0.15, haze=0.25)
NIGHT = Lighting(
    sun=0.0, ambient=0.3, lamps=1.0, sky=0.1, exposure=1.3, warmth=-0.1, haze=0.02, blur_px=0.7, noise_std=4.0
)

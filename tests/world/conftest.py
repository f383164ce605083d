import numpy as np
import pytest

from progeo_edge.geometry import Camera
from progeo_edge.world import DriveStep, StreetWorld, forward_camera, simulate_drive


@pytest.fixture(scope="session")
def street() -> StreetWorld:
    return StreetWorld(0)


@pytest.fixture(scope="session")
def drive(street: StreetWorld) -> tuple[DriveStep, ...]:
    return simulate_drive(street, 0)


@pytest.fixture(scope="session")
def camera() -> Camera:
    return forward_camera(200, 150)


@pytest.fixture(scope="session")
def fisheye(camera: Camera) -> Camera:
    K = np.array([[70.0, 0, 99.5], [0, 70.0, 74.5], [0, 0, 1]])
    return Camera("fisheye", 200, 150, K, np.array([0.03, -0.01, 0.002, 0.0]), camera.T_base_camera)

"""Plays two passes of a rendered street as a robot would publish them: images, depth, odometry, tf."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from progeo_edge.geometry import quaternion_xyzw

CAMERA_FRAME = "camera_optical"


def write_street(path: Path) -> Path:
    """Render once; the player processes load it."""
    from tests.small_world import camera, two_passes

    frames, _ = two_passes()
    np.savez(
        path,
        images=np.stack([frame.image for frame in frames]),
        depth_m=np.stack([frame.depth_m for frame in frames if frame.depth_m is not None]),
        poses=np.stack([frame.T_odom_base for frame in frames if frame.T_odom_base is not None]),
        K=camera().K,
        T_base_camera=camera().T_base_camera,
    )
    return path


class StreetPlayer:
    """Publishers of a camera with depth, and of a robot base with odometry.

    Args:
        node: Their owner, of rclpy.
        path: File of `write_street`.
        scale: Images are enlarged by it.
        prefix: Before the topics of the camera: "front/".
    """

    def __init__(self, node: Any, path: Path, scale: int = 1, prefix: str = "") -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data

        from progeo_ros.ros2.types import RclpyTypes

        self.node, self.types = node, RclpyTypes()
        street = np.load(path)
        self.images, self.depth_m, self.poses = street["images"], street["depth_m"], street["poses"]
        self.K, self.T_base_camera = street["K"].copy(), street["T_base_camera"]
        if scale > 1:
            self.images = np.stack([cv2.resize(image, None, fx=scale, fy=scale) for image in self.images])
            self.K[:2] *= scale
        sensor = qos_profile_sensor_data
        self.image = node.create_publisher(self.types.find("sensor_msgs/msg/Image"), f"{prefix}image", sensor)
        self.depth = node.create_publisher(self.types.find("sensor_msgs/msg/Image"), f"{prefix}depth", sensor)
        info = self.types.find("sensor_msgs/msg/CameraInfo")
        self.camera_info = node.create_publisher(info, f"{prefix}camera_info", sensor)
        self.odom = node.create_publisher(self.types.find("nav_msgs/msg/Odometry"), "odom", sensor)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tf_static = node.create_publisher(self.types.find("tf2_msgs/msg/TFMessage"), "/tf_static", latched)
        self.tf_static.publish(self._mounting())

    def destroy(self) -> None:
        """Take the publishers away."""
        for publisher in (self.image, self.depth, self.camera_info, self.odom, self.tf_static):
            self.node.destroy_publisher(publisher)

    def wait_for_listener(self, timeout_s: float = 20.0) -> None:
        """Best effort loses what is sent before the node has subscribed."""
        deadline = time.monotonic() + timeout_s
        while self.image.get_subscription_count() == 0 or self.odom.get_subscription_count() == 0:
            if time.monotonic() > deadline:
                raise TimeoutError("nobody subscribed to image and odom")
            time.sleep(0.05)

    def send(self, i: int, stamp_ns: int, *, with_camera_info: bool = True, with_depth: bool = True) -> None:
        """Publish everything that belongs to one image."""
        if with_camera_info:
            self.camera_info.publish(self.camera_info_message(stamp_ns))
        self.odom.publish(self.odometry_message(i, stamp_ns))
        if with_depth:
            self.depth.publish(self.depth_message(i, stamp_ns))
        self.image.publish(self.image_message(i, stamp_ns))

    def play(self, laps: int = 1, *, step_s: float = 0.15, gap_s: float = 0.0) -> None:
        """Both passes, `laps` times, with a pause between two passes."""
        for _ in range(laps):
            for i in range(len(self.images)):
                self.send(i, self.now_ns())
                time.sleep(step_s)
                if i == len(self.images) // 2 - 1:
                    time.sleep(gap_s)

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        return self.types.make("std_msgs/msg/Header", stamp=self.types.time(stamp_ns), frame_id=frame_id)

    def image_message(self, i: int, stamp_ns: int) -> Any:
        return self._image(self.images[i], "bgr8", stamp_ns)

    def depth_message(self, i: int, stamp_ns: int) -> Any:
        return self._image(self.depth_m[i].astype(np.float32), "32FC1", stamp_ns)

    def _image(self, pixels: Any, encoding: str, stamp_ns: int) -> Any:
        height, width = pixels.shape[:2]
        return self.types.make(
            "sensor_msgs/msg/Image",
            header=self.header(stamp_ns, CAMERA_FRAME),
            height=height,
            width=width,
            encoding=encoding,
            step=pixels[0].nbytes,
            data=pixels.tobytes(),
        )

    def camera_info_message(self, stamp_ns: int) -> Any:
        height, width = self.images.shape[1:3]
        return self.types.make(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, CAMERA_FRAME),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=self.K,
            r=np.eye(3),
            p=np.hstack([self.K, np.zeros((3, 1))]),
        )

    def odometry_message(self, i: int, stamp_ns: int) -> Any:
        T = self.poses[i]
        pose = self.types.make("geometry_msgs/msg/Pose", position=self._point(T), orientation=self._quaternion(T))
        return self.types.make(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, "odom"),
            child_frame_id="base_link",
            pose=self.types.make("geometry_msgs/msg/PoseWithCovariance", pose=pose),
        )

    def _mounting(self) -> Any:
        x, y, z = (float(value) for value in self.T_base_camera[:3, 3])
        transform = self.types.make(
            "geometry_msgs/msg/Transform",
            translation=self.types.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=self._quaternion(self.T_base_camera),
        )
        stamped = self.types.make(
            "geometry_msgs/msg/TransformStamped",
            header=self.header(0, "base_link"),
            child_frame_id=CAMERA_FRAME,
            transform=transform,
        )
        return self.types.make("tf2_msgs/msg/TFMessage", transforms=[stamped])

    def _point(self, T: Any) -> Any:
        x, y, z = (float(value) for value in T[:3, 3])
        return self.types.make("geometry_msgs/msg/Point", x=x, y=y, z=z)

    def _quaternion(self, T: Any) -> Any:
        x, y, z, w = (float(value) for value in quaternion_xyzw(T[:3, :3]))
        return self.types.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def main() -> None:
    """Play once, or stream at a rate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("street", type=Path)
    parser.add_argument("--laps", type=int, default=1)
    parser.add_argument("--step-s", type=float, default=0.15)
    parser.add_argument("--gap-s", type=float, default=0.0)
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--rate-hz", type=float, default=0.0, help="stream without depth for --duration-s")
    parser.add_argument("--duration-s", type=float, default=0.0)
    args = parser.parse_args()
    import rclpy

    rclpy.init()
    node = rclpy.create_node(f"street_player_{os.getpid()}")
    player = StreetPlayer(node, args.street, args.scale)
    player.wait_for_listener()
    if args.rate_hz:
        print(stream(player, args.rate_hz, args.duration_s), flush=True)  # noqa: T201
    else:
        player.play(args.laps, step_s=args.step_s, gap_s=args.gap_s)
    time.sleep(1.0)  # so that the last messages leave before the publishers go
    node.destroy_node()
    rclpy.try_shutdown()


def stream(player: StreetPlayer, rate_hz: float, duration_s: float) -> int:
    """Publish images and odometry at a steady rate, the street to and fro; returns how many."""
    start, sent, n = time.monotonic(), 0, len(player.images) // 2
    while time.monotonic() - start < duration_s:
        place = sent // 15 % (2 * n)
        player.send(place if place < n else 2 * n - 1 - place, player.now_ns(), with_depth=False)
        sent += 1
        time.sleep(max(0.0, start + sent / rate_hz - time.monotonic()))
    return sent


if __name__ == "__main__":
    main()

"""A robot: publishes the images of a file with all that belongs to them, each when the one before is answered.

Run as a process of its own by the tests.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rospy
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from progeo_edge.geometry import quaternion_xyzw

CONNECT_S = 20.0
ANSWER_S = 20.0


class Robot:
    """Publishers of everything that a recording may hold."""

    def __init__(self, recording: Any, options: argparse.Namespace) -> None:
        self.recording = recording
        self.options = options
        if options.compressed:
            self.image = rospy.Publisher(f"{rospy.resolve_name('image')}/compressed", CompressedImage, queue_size=10)
        else:
            self.image = rospy.Publisher("image", Image, queue_size=10)
        self.keyframe = rospy.Publisher("keyframe", Header, queue_size=10)
        self.info = rospy.Publisher("camera_info", CameraInfo, queue_size=10)
        self.depth = rospy.Publisher("depth", Image, queue_size=10)
        self.odom = rospy.Publisher("odom", Odometry, queue_size=10)
        self.clock = rospy.Publisher("/clock", Clock, queue_size=10) if options.clock else None
        self.tf = rospy.Publisher("/tf_static", TFMessage, queue_size=10, latch=True)
        self.tf.publish(TFMessage([self._mounting()]))

    def wait_for_node(self) -> None:
        wanted = [self.image, self.info, self.depth, self.odom, self.tf]
        wanted += [self.keyframe] if self.options.keyframes else []
        end = time.monotonic() + CONNECT_S
        while any(publisher.get_num_connections() == 0 for publisher in wanted):
            if time.monotonic() > end:
                raise SystemExit("player: the node does not listen to all topics")
            time.sleep(0.02)

    def publish(self, i: int) -> None:
        """Everything of one image, the image last."""
        stamp = rospy.Time(0, int(self.recording["stamps_ns"][i]))
        stamp.canon()
        image, depth_m = self.recording["images"][i], self.recording["depth_m"][i]
        if self.clock is not None:
            self.clock.publish(Clock(stamp))
        self.odom.publish(self._odometry(i, stamp))
        if not self.options.no_camera_info:
            self.info.publish(self._camera_info(stamp))
        self.depth.publish(picture(stamp, depth_m, "32FC1"))
        self.image.publish(_png(stamp, image) if self.options.compressed else picture(stamp, image, "bgr8"))
        if self.options.keyframes:
            self.keyframe.publish(Header(stamp=stamp, frame_id="camera"))

    def _odometry(self, i: int, stamp: Any) -> Odometry:
        message = Odometry(header=Header(stamp=stamp, frame_id="odom"), child_frame_id="base_link")
        _fill(message.pose.pose.position, message.pose.pose.orientation, self.recording["T_odom_base"][i])
        if self.options.nan_odometry:
            message.pose.pose.position.x = float("nan")
        return message

    def _camera_info(self, stamp: Any) -> CameraInfo:
        height, width = self.recording["images"].shape[1:3]
        K = self.recording["K"]
        return CameraInfo(
            header=Header(stamp=stamp, frame_id="camera"),
            width=width,
            height=height,
            distortion_model="plumb_bob",
            D=[0.0] * 5,
            K=K.ravel().tolist(),
            R=np.eye(3).ravel().tolist(),
            P=np.hstack([K, np.zeros((3, 1))]).ravel().tolist(),
        )

    def _mounting(self) -> TransformStamped:
        message = TransformStamped(header=Header(frame_id="base_link"), child_frame_id="camera")
        _fill(message.transform.translation, message.transform.rotation, self.recording["T_base_camera"])
        return message


class Answers:
    """Remembers which images the node has answered, by its loop_candidates."""

    def __init__(self) -> None:
        from progeo_msgs.msg import LoopCandidates

        self._changed = threading.Condition()
        self._stamps: set[int] = set()
        self._subscriber = rospy.Subscriber("loop_candidates", LoopCandidates, self._on_candidates)

    def wait_for_node(self) -> None:
        end = time.monotonic() + CONNECT_S
        while self._subscriber.get_num_connections() == 0:
            if time.monotonic() > end:
                raise SystemExit("player: the node does not publish loop_candidates")
            time.sleep(0.02)

    def wait_for(self, stamp_ns: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: stamp_ns in self._stamps, ANSWER_S):
                raise SystemExit(f"player: no answer to the image of {stamp_ns}")

    def _on_candidates(self, message: Any) -> None:
        with self._changed:
            self._stamps.add(message.header.stamp.to_nsec())
            self._changed.notify_all()


def main() -> None:
    options = _options()
    rospy.init_node("player", anonymous=True)
    with np.load(options.recording) as recording:
        robot = Robot({name: recording[name] for name in recording.files}, options)
    answers = None if options.period_s else Answers()
    robot.wait_for_node()
    if answers is not None:
        answers.wait_for_node()
    for i in range(options.first, options.last):
        robot.publish(i)
        if answers is None:
            time.sleep(options.period_s)
        else:
            answers.wait_for(int(robot.recording["stamps_ns"][i]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("recording", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, required=True)
    parser.add_argument("--period-s", type=float, default=0.0, help="between images; 0 waits for the answer to each")
    parser.add_argument("--compressed", action="store_true", help="as PNG, below the name of the raw images")
    parser.add_argument("--keyframes", action="store_true", help="ask for every image to be kept")
    parser.add_argument("--clock", action="store_true", help="simulated time: that of the images")
    parser.add_argument("--no-camera-info", action="store_true")
    parser.add_argument("--nan-odometry", action="store_true")
    return parser.parse_args(rospy.myargv()[1:])


def picture(stamp: Any, pixels: Any, encoding: str) -> Image:
    """sensor_msgs/Image without padding."""
    height, width = pixels.shape[:2]
    header = Header(stamp=stamp, frame_id="camera")
    step = pixels.nbytes // height
    return Image(header=header, height=height, width=width, encoding=encoding, step=step, data=pixels.tobytes())


def _png(stamp: Any, pixels: Any) -> CompressedImage:
    data = cv2.imencode(".png", pixels)[1].tobytes()
    return CompressedImage(header=Header(stamp=stamp, frame_id="camera"), format="bgr8; png compressed bgr8", data=data)


def _fill(position: Any, orientation: Any, T: Any) -> None:
    position.x, position.y, position.z = T[:3, 3].tolist()
    orientation.x, orientation.y, orientation.z, orientation.w = quaternion_xyzw(T[:3, :3])


if __name__ == "__main__":
    main()

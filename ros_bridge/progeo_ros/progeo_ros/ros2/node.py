"""The lifecycle node: transitions, parameters that change while it runs, and diagnostics."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from progeo_edge.errors import ConfigError, ProgeoError
from progeo_ros.complaints import Complaints
from progeo_ros.config import NodeConfig
from progeo_ros.health import Health, diagnostics_message
from progeo_ros.operation import Operation
from progeo_ros.parameters import configs_from, refuse_change
from progeo_ros.qos_overrides import refuse_wrong_profiles
from progeo_ros.ros2.log_bridge import LogBridge
from progeo_ros.ros2.middleware import Rclpy
from progeo_ros.ros2.parameters import declare_settings, profile_overrides, read_settings, unknown_settings
from progeo_ros.ros2.qos import reliable
from progeo_ros.ros2.services import Services

NODE_NAME = "progeo"
AUTOSTART = "autostart"
DIAGNOSTICS_PERIOD_S = 1.0


class ProgeoNode(LifecycleNode):  # type: ignore[misc]  # rclpy is not there where mypy runs
    """Place recognition and loop closures as a managed node.

    `configure` opens bundle, engine, map and camera file, or fails with a sentence and nothing open. `activate`
    subscribes, `deactivate` unsubscribes and keeps the map, `cleanup` closes it and frees the GPU. The parameter
    `autostart` configures and activates without a lifecycle manager.

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a parameter from file or command line is out of range.
        rclpy.exceptions.InvalidParameterTypeException: or of the wrong type.
    """

    def __init__(self) -> None:
        super().__init__(NODE_NAME)
        self._ros = Rclpy(self)
        self._complaints = Complaints()
        self._operation: Operation | None = None
        self._idle_health = Health(NodeConfig())
        self._idle_health.state = "unconfigured"
        self._transition = threading.RLock()
        self._log_bridge = LogBridge(self.get_logger())
        self._log_bridge.install()
        self._guard_transitions()
        self.declare_parameter(AUTOSTART, False)
        self._specs = declare_settings(self)
        for sentence in unknown_settings(self, self._specs):
            self.get_logger().warning(sentence)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._offered = Services(self, self._ros.types, lambda: self._operation)
        self._start_diagnostics()
        if self.get_parameter(AUTOSTART).value:
            self._autostart_timer = self.create_timer(0.0, self._autostart, clock=_steady_clock())

    # -- transitions -------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open what the parameters say."""
        return self._try("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        return self._try("activate", self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe."""
        return self._try("deactivate", self._open_operation.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close everything; it can be configured again."""
        return self._try("cleanup", self.close_operation)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close everything, from any state."""
        return self._try("shutdown", self.close_operation)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close everything after a transition that failed half-way; it can be configured again."""
        return self._try("error", self.close_operation)

    @property
    def _open_operation(self) -> Operation:
        assert self._operation is not None  # the state machine asks for it only after configure
        return self._operation

    def _configure(self) -> None:
        refuse_wrong_profiles(profile_overrides(self))
        node_config, config = configs_from(read_settings(self, self._specs))
        self._operation = Operation(node_config, config, self._ros)
        self._idle_health.errors.clear()

    def _activate(self) -> None:
        self._open_operation.activate()
        for name in profile_overrides(self):
            if not self.has_parameter(name):  # ROS declares it with the topic
                self.get_logger().warning(
                    f"parameter {name} has no effect so far: the node has no such topic; `ros2 node info` lists them"
                )

    def close_operation(self) -> None:
        """Close what is open; twice is fine."""
        with self._transition:
            operation, self._operation = self._operation, None
            if operation is not None:
                operation.close()

    def _try(self, name: str, step: Callable[[], None]) -> TransitionCallbackReturn:
        """A transition fails with a sentence; rclpy would drop an exception without a word."""
        try:
            with self._transition:
                step()
        except ProgeoError as error:
            self.get_logger().error(f"{name} failed: {error}")
            self._idle_health.errors[name] = f"{name} failed: {error}"
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.get_logger().error(f"{name} failed:\n{traceback.format_exc()}")
            self._idle_health.errors[name] = f"{name} failed: {error!r}"
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _guard_transitions(self) -> None:
        """A transition that the state does not have is an exception in rclpy, which would end the node."""
        service = self._service_change_state
        change = service.callback

        def answer(request: Any, response: Any) -> Any:  # noqa: ANN401
            try:
                return change(request, response)
            except Exception as error:
                self.get_logger().error(f"transition {request.transition.label or request.transition.id}: {error}")
                response.success = False
                return response

        service.callback = answer

    def _autostart(self) -> None:
        self._autostart_timer.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # -- parameters --------------------------------------------------------------------------------------------------

    def _on_set_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        """Refuse what is wrong, or fixed, with a sentence; put the rest in force."""
        ours = [parameter for parameter in changes if parameter.name in self._specs]
        if not ours:
            return SetParametersResult(successful=True)
        try:
            with self._transition:
                self._change_settings(ours)
        except ProgeoError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _change_settings(self, changes: Sequence[Parameter]) -> None:
        if any(parameter.name == "profile" for parameter in changes):
            raise ConfigError("profile gives the defaults when the node starts; set it in the parameter file")
        if self._operation is not None:
            refuse_change([parameter.name for parameter in changes], self._specs)
        _, config = configs_from(read_settings(self, self._specs, changes))
        if self._operation is not None:
            self._operation.recogniser.reconfigure(config)

    # -- diagnostics -------------------------------------------------------------------------------------------------

    def _start_diagnostics(self) -> None:
        kind = self._ros.types.find("diagnostic_msgs/msg/DiagnosticArray")
        self._diagnostics = self.create_publisher(kind, "/diagnostics", reliable(10))
        # By the machine's clock: with simulated time that stands still, a user needs to hear of it all the more.
        self._diagnostics_timer = self.create_timer(
            DIAGNOSTICS_PERIOD_S, self._tick, callback_group=MutuallyExclusiveCallbackGroup(), clock=_steady_clock()
        )

    def _tick(self) -> None:
        try:
            operation = self._operation
            self._diagnostics.publish(self._idle_diagnostics() if operation is None else operation.tick())
        except Exception as error:  # out of a callback it would end the node
            self._complaints.log_failure("diagnostics", error)

    def _idle_diagnostics(self) -> Any:  # noqa: ANN401
        return diagnostics_message(self._ros.types, self._idle_health, self._ros.now_ns(), self._ros.name)

    def destroy_node(self) -> None:
        """Close everything, then the node."""
        self.close_operation()
        self._log_bridge.remove()
        super().destroy_node()


def _steady_clock() -> Clock:
    return Clock(clock_type=ClockType.STEADY_TIME)

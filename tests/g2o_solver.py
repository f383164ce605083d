"""Solves a .g2o file with the real g2o; run as a process of its own, because g2o-python needs NumPy 1.

The wheel's own loader does not know the tags of three-dimensional graphs, so the lines are read here.

    python g2o_solver.py FILE [KERNEL DELTA FIRST_EDGE]

FIRST_EDGE and all edges after it get the robust kernel. Prints JSON: poses by id as x y z qx qy qz qw, chi2 of every
edge at the start and at the end, and the sum of the robust ones at the start.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ITERATIONS = 100


def pose(g2o: Any, values: list[float]) -> Any:
    x, y, z, qx, qy, qz, qw = values
    return g2o.Isometry3d(g2o.Quaternion(qw, qx, qy, qz), np.array([x, y, z]))


def main(path: str, kernel: str = "", delta: str = "1", first_edge: str = "0") -> None:
    import g2o

    optimizer = g2o.SparseOptimizer()
    optimizer.set_algorithm(g2o.OptimizationAlgorithmLevenberg(g2o.BlockSolverSE3(g2o.LinearSolverEigenSE3())))
    edges: list[Any] = []
    for line in Path(path).read_text().splitlines():
        tag, *fields = line.split()
        numbers = [float(field) for field in fields]
        if tag == "VERTEX_SE3:QUAT":
            vertex = g2o.VertexSE3()
            vertex.set_id(int(fields[0]))
            vertex.set_estimate(pose(g2o, numbers[1:]))
            vertex.set_fixed(not optimizer.vertices())
            optimizer.add_vertex(vertex)
        else:
            assert tag == "EDGE_SE3:QUAT", tag
            edge = g2o.EdgeSE3()
            edge.set_vertex(0, optimizer.vertex(int(fields[0])))
            edge.set_vertex(1, optimizer.vertex(int(fields[1])))
            edge.set_measurement(pose(g2o, numbers[2:9]))
            information = np.zeros((6, 6))
            information[np.triu_indices(6)] = numbers[9:]
            edge.set_information(information + np.triu(information, 1).T)
            if kernel and len(edges) >= int(first_edge):
                edge.set_robust_kernel(getattr(g2o, f"RobustKernel{kernel}")(float(delta)))
            optimizer.add_edge(edge)
            edges.append(edge)
    optimizer.initialize_optimization()
    optimizer.compute_active_errors()
    at_start, robust = [edge.chi2() for edge in edges], optimizer.active_robust_chi2()
    optimizer.optimize(ITERATIONS)
    optimizer.compute_active_errors()
    poses = {}
    for i, vertex in optimizer.vertices().items():
        estimate = vertex.estimate()
        q = estimate.orientation()
        poses[i] = [*np.asarray(estimate.translation()).ravel().tolist(), q.x(), q.y(), q.z(), q.w()]
    at_end = [edge.chi2() for edge in edges]
    record = {"poses": poses, "chi2_start": at_start, "robust_chi2_start": robust, "chi2_end": at_end}
    sys.stdout.write(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Half precision: typing a graph, the island that stays FP32, the range audit and the strict executor."""

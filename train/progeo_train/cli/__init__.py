"""The command `progeo-train`: parse, wire, print."""

"""The command `progeo-export`: parse, wire, print."""

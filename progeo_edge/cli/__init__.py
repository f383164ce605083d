"""Commands: each parses its arguments, wires the library together and prints; nothing is decided here."""

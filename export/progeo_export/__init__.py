"""Turns a trained encoder into a bundle that the runtime can run without torch, and proves that both agree."""

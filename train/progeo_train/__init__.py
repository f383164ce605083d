"""Training of ProGEO's prompt-guided encoder (arXiv 2406.01906), in two stages, on street data or own recordings."""

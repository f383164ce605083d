"""Training of the prompt-guided encoder of ProGEO (arXiv 2406.01906), in two stages, on street data or own recordings."""

"""Training images: what is known of each, and which of them show the same place."""

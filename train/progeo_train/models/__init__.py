"""CLIP and its parts: image encoder, text tower, learned prompts."""

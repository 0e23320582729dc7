"""What a model is worth on held-out and on test samples."""

"""A batch becomes a loss and its named parts."""

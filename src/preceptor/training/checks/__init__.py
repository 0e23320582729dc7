"""What is looked at before training, so that what does not fit is refused at once."""

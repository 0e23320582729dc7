"""What models are shown, and when: the samples of each part, their order, batches."""

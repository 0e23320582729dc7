"""From what a recipe or a caller says to objects: model, criterion, task, and what looks on."""

"""Whoever answers for a student, live, stored or recorded: prepared, and matched to its samples."""

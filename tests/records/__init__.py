"""Tests of records; a package, so that the benchmark of the same name is not found first."""

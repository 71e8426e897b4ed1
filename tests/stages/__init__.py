"""One file of tests for each stage."""

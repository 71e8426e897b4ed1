"""Tests of the offline training."""

"""Tests of what people use and see."""

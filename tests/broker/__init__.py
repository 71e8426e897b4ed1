"""Tests on a real Apache Kafka; it is never mocked."""

"""Tests: units beside this file, faults in memory under `sim`, a real Kafka under `broker`."""

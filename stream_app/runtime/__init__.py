"""How a partition lives on Kafka: delivered in batches, committed whole, restored in bulk."""

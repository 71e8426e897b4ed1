"""Where events come from, and how they get into Kafka."""

# A record to produce: key, value and timestamp in ms since the epoch, None for the time of sending.
Record = tuple[bytes, bytes, int | None]

"""What people use and see: health, the demo, watching topics and users."""

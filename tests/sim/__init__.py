"""A deterministic simulation: the real worker on a broker and faults that one seed draws."""

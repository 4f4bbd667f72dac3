"""noa: a unified workflow system."""

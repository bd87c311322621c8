"""Drawing and editing images with a network that predicts for a process."""

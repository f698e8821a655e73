"""What decides a run, and the folder that holds it."""

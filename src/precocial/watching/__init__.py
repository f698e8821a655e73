"""Films of a run adapting to a task."""

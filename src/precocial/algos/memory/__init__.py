"""Methods that learn inside a trial: by a memory, or by a belief over tasks."""

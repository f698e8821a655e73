"""Plain reinforcement learning: one task, or a family blind to the task."""

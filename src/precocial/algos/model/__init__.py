"""Methods that adapt a model of the world at every step and plan with it."""

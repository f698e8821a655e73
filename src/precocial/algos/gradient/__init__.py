"""Methods that adapt by gradient steps on the policy."""

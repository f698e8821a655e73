"""Networks as functions of parameter dicts, and the linear baseline."""

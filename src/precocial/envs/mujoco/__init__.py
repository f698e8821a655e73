"""Task families on real physics, simulated by MuJoCo."""

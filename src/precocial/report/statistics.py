"""Temporary."""
import numpy as np
def interquartile_mean(x):
    x=np.sort(np.asarray(x).ravel()); n=len(x); k=n//4
    return float(x[k:n-k].mean())
def bootstrap_interval(scores, num_resamples=2000, seed=0):
    r=np.random.default_rng(seed); S,N=scores.shape
    v=[interquartile_mean(scores[r.integers(S,size=S)][:, r.integers(N,size=N)]) for _ in range(200)]
    return float(np.quantile(v,.025)), float(np.quantile(v,.975))

"""Requests become results: prepare, prefill, then text tokens or denoising steps, all active requests in one forward."""

"""Numbers of a running server in Prometheus' form. Each server has a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """What the worker and the endpoints count."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.queue_depth = Gauge("openlance_queue_depth", "Requests that wait", registry=registry)
        self.active_requests = Gauge("openlance_active_requests", "Requests inside the engine", registry=registry)
        self.active_rows = Gauge("openlance_active_rows", "Rows of the last step", registry=registry)
        self.tokens = Counter("openlance_tokens", "Tokens moved through the model, of every kind", registry=registry)
        self.new_tokens = Counter("openlance_generated_tokens", "Text tokens generated", registry=registry)
        self.tokens_per_second = Gauge("openlance_tokens_per_second", "Running mean of tokens a second while stepping", registry=registry)
        self.step_seconds = Histogram("openlance_step_seconds", "Time of an engine step", registry=registry, buckets=SECONDS)
        self.waited = Histogram("openlance_queue_seconds", "Time from arrival to the first step", registry=registry, buckets=SECONDS)
        self.latency = Histogram("openlance_request_seconds", "Time from arrival to result", ["task"], registry=registry, buckets=SECONDS)
        self.first_token = Histogram("openlance_first_token_seconds", "Time to the first piece of text", registry=registry, buckets=SECONDS)
        self.rejections = Counter("openlance_rejections", "Requests that were not taken", ["reason"], registry=registry)
        self.failures = Counter("openlance_failures", "Requests that were taken and failed", ["reason"], registry=registry)
        self.responses = Counter("openlance_http_responses", "HTTP responses", ["method", "status"], registry=registry)
        self.jobs = Gauge("openlance_jobs", "Stored video jobs", ["status"], registry=registry)
        self._rate = 0.0
        self._depths: list[tuple[Callable[[], float], Callable[[], float]]] = []
        self.queue_depth.set_function(lambda: sum(queued() for queued, _ in self._depths))
        self.active_requests.set_function(lambda: sum(active() for _, active in self._depths))

    def watch(self, queued: Callable[[], float], active: Callable[[], float]) -> Callable[[], None]:
        """Read the two depths of a worker where they are, when asked; several workers add up. Gives what ends it."""
        depths = (queued, active)
        self._depths.append(depths)
        return lambda: self._depths.remove(depths)

    def step(self, seconds: float, rows: int, tokens: int) -> None:
        """Count one step of the engine."""
        self.step_seconds.observe(seconds)
        self.active_rows.set(rows)
        if tokens and seconds > 0:
            self.tokens.inc(tokens)
            self._rate += 0.1 * (tokens / seconds - self._rate)
            self.tokens_per_second.set(self._rate)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

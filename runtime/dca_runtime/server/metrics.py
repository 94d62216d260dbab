"""Figures for Prometheus, under vLLM's names where they mean the same."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = CONTENT_TYPE_LATEST

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_BETWEEN = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10)
_WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)


class _Times(Collector):
    """A histogram for one thread, which takes a time for every token: the package's own locks for each."""

    def __init__(self, name: str, text: str, model: str, bounds: tuple[float, ...]) -> None:
        self._name, self._text, self._model = name, text, model
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # up to each bound, and above
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    @property
    def count(self) -> int:
        return sum(self._counts)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What the package asks for."""
        bounds = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]
        family = HistogramMetricFamily(self._name, self._text, labels=["model_name"])
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        family.add_metric([self._model], buckets, self._sum)
        yield family


class Metrics:
    """One server's figures. Any thread may write them, tokens' the event loop's alone."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model_name"], registry=self.registry).labels(model)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["model_name"], registry=self.registry).labels(model)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(name, text, ["model_name"], registry=self.registry, buckets=buckets)
            return made.labels(model)

        self._running = gauge("vllm:num_requests_running", "Answers that are read for or written.")
        self._waiting = gauge("vllm:num_requests_waiting", "Answers that wait for their first row.")
        self._usage = gauge("vllm:kv_cache_usage_perc", "Share of the pool that running requests hold.")
        self._preempted = counter("vllm:num_preemptions", "Answers set aside for want of pages.")
        self._queries = counter("vllm:prefix_cache_queries", "Prompt tokens looked for in the pool.")
        self._hits = counter("vllm:prefix_cache_hits", "Prompt tokens found in the pool.")
        self._loaded = counter("vllm:external_prefix_cache_hits", "Prompt tokens that came from the store.")
        self._looked_up = counter("vllm:external_prefix_cache_queries", "Prompt tokens looked for there.")
        self._asleep = gauge("dca:host_cache_bytes", "Host memory that pages sleep in.")
        self._asleep_limit = gauge(
            "dca:host_cache_limit_bytes", "The most that they may take; 0: none sleep."
        )
        self._slept = counter("dca:host_cache_slept_tokens", "Tokens copied to host memory.")
        self._woken = counter("dca:host_cache_hits", "Prompt tokens that came from host memory.")
        self._dropped = counter("dca:host_cache_dropped_tokens", "Tokens dropped there for want of room.")
        self._counts = (0, 0)  # tokens that slept and were dropped
        self._prompt = counter("vllm:prompt_tokens", "Prompt tokens of requests that were started.")
        self._generated = counter("vllm:generation_tokens", "Tokens generated and given to clients.")
        self._counted = 0  # of them
        self._queue = histogram("vllm:request_queue_time_seconds", "Wait for the first row.", _FIRST)
        self._first = _Times("vllm:time_to_first_token_seconds", "Time to the first token.", model, _FIRST)
        self._between = _Times("vllm:inter_token_latency_seconds", "Time between tokens.", model, _BETWEEN)
        for times in (self._first, self._between):
            self.registry.register(times)
        self._whole = histogram("vllm:e2e_request_latency_seconds", "Time of whole answers.", _WHOLE)
        self._success = Counter(
            "vllm:request_success",
            "Answers that came to an end, by why.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        self._steps = counter("dca:steps", "Steps of the engine.")
        self._stepping = counter("dca:step_seconds", "Seconds in the engine's steps.")
        self._pausing = counter("dca:between_steps_seconds", "Seconds between steps that follow each other.")
        self._set_aside = 0

    def text(self) -> bytes:
        """The figures in Prometheus' format."""
        tokens = self._first.count + self._between.count
        self._generated.inc(tokens - self._counted)
        self._counted = tokens
        return generate_latest(self.registry)

    def state(self, running: int, waiting: int, usage: float, set_aside: int) -> None:
        """How full the server is; ``set_aside`` counts from its start."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._usage.set(usage)
        self._preempted.inc(set_aside - self._set_aside)
        self._set_aside = set_aside

    def stepped(self, seconds: float, since_last: float) -> None:
        """The engine made a step, so long after the last; 0 where there was nothing to do before it."""
        self._steps.inc()
        self._stepping.inc(seconds)
        self._pausing.inc(since_last)

    def started(self, waited: float, prompt: int, cached: int) -> None:
        """An answer got its first row after ``waited`` seconds; so many tokens of its prompt were there."""
        self._queue.observe(waited)
        self._prompt.inc(prompt)
        self._queries.inc(prompt)
        self._hits.inc(cached)

    def looked_up(self, tokens: int) -> None:
        """A prompt of so many tokens was looked for in the store."""
        self._looked_up.inc(tokens)

    def loaded(self, tokens: int) -> None:
        """So many tokens of a prompt came from the store."""
        self._loaded.inc(tokens)

    def woken(self, tokens: int) -> None:
        """So many tokens of a prompt came from host memory."""
        self._woken.inc(tokens)

    def asleep(self, used: int, limit: int, slept: int, dropped: int) -> None:
        """Bytes of host memory in use and at most; tokens since the server's start."""
        self._asleep.set(used)
        self._asleep_limit.set(limit)
        self._slept.inc(slept - self._counts[0])
        self._dropped.inc(dropped - self._counts[1])
        self._counts = (slept, dropped)

    def token(self, since_last: float, first: bool) -> None:
        """A token reached the event loop."""
        (self._first if first else self._between).add(since_last)

    def finished(self, reason: str, seconds: float) -> None:
        """An answer ended: "stop", "length", "abort" (its client left) or "error"."""
        self._success.labels(self._model, reason).inc()
        self._whole.observe(seconds)

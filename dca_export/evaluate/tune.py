"""Chooses a scheme on the user's own text: one that predicts it and finds keys hidden in it at least as well
as the default on both counts, and beyond doubt better on one.

All candidates read the text's beginning once. Those that predict it no worse than the default, the best few
of them, are asked for five-digit keys hidden in it, the same ones, as many as the time allows. Where text or
time are too little to tell, or nothing is better beyond doubt, the default stays.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dca_export.errors import InputError
from dca_export.evaluate import intervals, perplexity, perplexity_bars, retrieval
from dca_export.evaluate.intervals import Interval
from dca_export.evaluate.methods import Method
from dca_export.evaluate.sweep import FEWEST_OF_ONE_TRIAL
from dca_export.evaluate.tasks import needle, passkey
from dca_export.evaluate.text import Text
from dca_export.scheme import Scheme

if TYPE_CHECKING:
    from dca_runtime import Model

BEYOND = 1.5  # how far the text is read, in pretraining lengths
LEAST_BEYOND = 1.25  # a text that reaches less far tells nothing of what lies beyond
WINDOWS = 32  # that the text's log-likelihood is compared in; more than intervals.FEWEST_BLOCKS
CONTENDERS = 3  # that are asked for keys, the default among them
FEWEST_KEYS = FEWEST_OF_ONE_TRIAL
MOST_KEYS = 12
DEPTHS = (10, 50, 90, 30, 70, 20, 80, 40, 60, 5, 95, 25)  # percent of the text before a key

_CACHE_TYPE = "f16"

Progress = Callable[[float, float, str], Any]
"""Called with (seconds spent, seconds allowed, what is done)."""


@dataclass
class Trial:
    """One scheme's figures, with their intervals of 95 % confidence."""

    scheme: Scheme
    windows: np.ndarray  # mean -log p of each window of the text, float64
    tokens: np.ndarray  # predicted in each
    nll: float  # mean -log p of all of it
    found: list[bool] = field(default_factory=list)  # key by key; empty: not asked

    @property
    def perplexity(self) -> float:
        return perplexity.exp(self.nll)

    @property
    def perplexity_interval(self) -> Interval | None:
        """None where it is not finite, or the windows are too few."""
        return perplexity_bars.exponential(intervals.block_bootstrap(self.tokens, self.windows))

    @property
    def found_interval(self) -> Interval | None:
        """Of the share of the keys found; None: none was asked for."""
        n = len(self.found)
        return intervals.wilson(sum(self.found) / n, n) if n else None

    @property
    def name(self) -> str:
        """chunk size / local window / pretraining length"""
        return Method("dca", self.scheme).name.removeprefix("dca:")

    def times(self, other: Trial) -> Interval | None:
        """The perplexity as a multiple of the other's, paired by windows; None as above."""
        return perplexity_bars.exponential(
            intervals.block_bootstrap(self.tokens, self.windows - other.windows)
        )

    def is_surely_better_than(self, other: Trial) -> bool:
        """Whether it predicts better or finds more keys, by more than the noise of the difference."""
        times = self.times(other)
        if times is not None and times.high < 1:
            return True
        return bool(self.found) and intervals.paired_shares(self.found, other.found).low > 0


@dataclass(frozen=True)
class Tuned:
    """What was chosen, on what evidence."""

    scheme: Scheme
    default: Scheme
    verdict: str  # one sentence
    trials: list[Trial]  # the default first; empty: nothing was measured
    tokens: int  # of text that was read
    keys: int  # asked of each contender
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The evidence for a program."""
        trials = [
            {
                "scheme": trial.name,
                "perplexity": round(trial.perplexity, 4),
                "perplexity_interval": _rounded(trial.perplexity_interval),
                "times_the_default": _rounded(trial.times(self.trials[0])),
                "keys_found": sum(trial.found) if trial.found else None,
                "keys_interval": _rounded(trial.found_interval),
            }
            for trial in self.trials
        ]
        return {"tokens": self.tokens, "keys": self.keys, "seconds": round(self.seconds), "trials": trials}


def candidates(default: Scheme) -> list[Scheme]:
    """The default, then chunks of 1/2 and 3/4 of a half, all and a quarter of its pretraining length."""
    c = default.pretraining_length
    grid = [
        Scheme(s, length - s, length, default.logit_scale, default.logit_scale_length)
        for length in (c // 2, c, c // 4)
        for share in (0.5, 0.75)
        if 0 < (s := round(length * share)) < length
    ]
    return list(dict.fromkeys([default, *grid]))


def tune(model: Model, text: Text, seconds: float, progress: Progress, seed: int = 0) -> Tuned:
    """Measures, in about ``seconds`` at most, and chooses; the default is the scheme of the model's file.

    Raises InputError: the file has none, or the text is no text.
    """
    if model.scheme is None:
        raise InputError(f"{model.path}: has no scheme that could be tuned")
    return _Run(model, text, Scheme(*model.scheme), seconds, progress, seed).tuned()


class _Run:
    def __init__(
        self, model: Model, text: Text, default: Scheme, seconds: float, progress: Progress, seed: int
    ) -> None:
        self._model, self._text, self._default = model, text, default
        self._seconds, self._progress, self._seed = seconds, progress, seed
        self._began = time.monotonic()
        self._trials: list[Trial] = []
        self._tokens = self._keys = 0

    def tuned(self) -> Tuned:
        c = self._default.pretraining_length
        length, least = int(BEYOND * c), math.ceil(LEAST_BEYOND * c)
        ids = _beginning(self._text, self._model, length)
        if len(ids) < least:
            return self._keep(
                f"the text has {len(ids):,} tokens, and what lies beyond {c:,} is told from {least:,} on"
            )
        self._tokens = len(ids)
        schemes = candidates(self._default)
        self._read(ids, schemes[0])
        a_pass = self._spent()
        fewest = 2 * (1 + FEWEST_KEYS)  # readings without which two schemes are not told apart
        if fewest * a_pass > self._seconds:
            return self._keep(
                f"a reading of {len(ids):,} tokens takes {a_pass:,.0f} s here, and telling two schemes "
                f"apart takes {fewest}: allow {math.ceil(fewest * a_pass * 1.2 / 60)} minutes"
            )
        for scheme in schemes[1:]:
            # Half of the time is for the keys.
            if len(self._trials) > 1 and self._spent() + a_pass > self._seconds / 2:
                break
            self._read(ids, scheme)
        default, *others = self._trials
        contenders = sorted((trial for trial in others if trial.nll <= default.nll), key=lambda t: t.nll)
        if not contenders:
            return self._keep("none of the others predicts the text as well")
        try:
            self._ask([default, *contenders[: CONTENDERS - 1]], len(ids), a_pass)
        except InputError as error:
            return self._keep(f"no key can be hidden in the text ({error})")
        if self._keys < FEWEST_KEYS:
            return self._keep(f"the time allowed was enough for {self._keys} keys, {FEWEST_KEYS} are needed")
        return self._chosen(default, contenders[: CONTENDERS - 1])

    def _read(self, ids: np.ndarray, scheme: Scheme) -> None:
        method = Method("dca", scheme)
        window = math.ceil(len(ids) / WINDOWS)

        def report(done: float, total: float) -> None:
            self._progress(self._spent(), self._seconds, f"reading with {method.name}")

        cell = {"method": method.name, "lengths": [len(ids)]}
        figures = perplexity.measure(
            self._model, ids, cell, report, window=window, stride=0, cache_type=_CACHE_TYPE
        )
        nll = figures["lengths"][0][1]
        starts, ends, windows = zip(*figures["windows"], strict=True)
        tokens = np.array(ends) - np.maximum(starts, 1)  # nothing predicts the first token
        self._trials.append(Trial(scheme, np.array(windows), tokens, nll if math.isfinite(nll) else math.inf))

    def _ask(self, contenders: list[Trial], length: int, a_pass: float) -> None:
        """Asks all of them for one key after another, while there is time. Raises InputError: none fits."""
        hay = needle.haystack(self._text, length)[: 8 * length]
        frame = (
            self._model.tokenize(passkey.TASK),
            self._model.tokenize(f"\n{passkey.QUESTION}", add_special=False),
        )
        with retrieval.Answerer(self._model, length + passkey.ANSWER_TOKENS, _CACHE_TYPE) as answerer:
            for number in range(MOST_KEYS):
                began = self._spent()
                if began + len(contenders) * a_pass > self._seconds * 1.1:
                    return
                key = str(np.random.default_rng([self._seed, number]).integers(10_000, 100_000))
                sentence = passkey.KEY.format(key=key)
                prompts = needle.Prompts(self._model, hay, sentence, passkey.QUESTION, self._seed, frame)
                ids = prompts.build(length, DEPTHS[number], number)

                def report(done: float, total: float, asked: int = number) -> None:
                    self._progress(self._spent(), self._seconds, f"looking for key {asked + 1}")

                for trial in contenders:
                    answer = answerer.answer(
                        Method("dca", trial.scheme).name, ids, passkey.ANSWER_TOKENS, report
                    )
                    first = re.search(r"\d+", answer)
                    trial.found.append(first is not None and first[0] == key)
                self._keys = number + 1
                a_pass = (self._spent() - began) / len(contenders)

    def _chosen(self, default: Trial, contenders: Sequence[Trial]) -> Tuned:
        good = [trial for trial in contenders if sum(trial.found) >= sum(default.found)]
        sure = [trial for trial in good if trial.is_surely_better_than(default)]
        if not sure:
            return self._keep("no other scheme is better on one count beyond doubt and as good on the other")
        best = max(sure, key=lambda trial: (sum(trial.found), -trial.nll))
        verdict = (
            f"chosen: {best.name}, perplexity {best.perplexity:.2f} and {sum(best.found)} of {self._keys} "
            f"keys; the default {default.name} has {default.perplexity:.2f} and {sum(default.found)}"
        )
        return self._tuned(best.scheme, verdict)

    def _keep(self, why: str) -> Tuned:
        return self._tuned(self._default, f"the default stays: {why}")

    def _tuned(self, scheme: Scheme, verdict: str) -> Tuned:
        return Tuned(scheme, self._default, verdict, self._trials, self._tokens, self._keys, self._spent())

    def _spent(self) -> float:
        return time.monotonic() - self._began


def _rounded(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(bound, 4) for bound in interval]


def _beginning(text: Text, model: Model, length: int) -> np.ndarray:
    """The text's first ``length`` token ids, or all it has."""
    try:
        return text.ids(model, length)
    except InputError:
        characters = 1 << 16
        while text.start(characters)[1]:
            characters *= 2
        ids = np.array(model.tokenize(text.start(characters)[0], parse_special=False), np.int32)
        if len(ids) >= length:  # it is no text for another reason
            raise
        return ids

"""Any order of engine calls: every sequence keeps what it would have alone, and pages are neither lost
nor counted twice."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from test_engine import CLOSE, SCHEME

from dca_runtime import DcaError, Model, Status

ROOM = 1024  # tokens: few enough that the pool fills now and then
ids = st.lists(st.integers(0, 319), min_size=1, max_size=150)


class Calls(RuleBasedStateMachine):
    model: Model
    sequences = Bundle("sequences")

    @initialize()
    def start(self) -> None:
        self.engine = self.model.engine(tokens=ROOM, cache_type="f32", scheme=SCHEME)
        self.held: dict = {}  # the tokens of every open sequence

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()

    @rule(target=sequences)
    def create(self):
        sequence = self.engine.sequence()
        self.held[sequence] = []
        return sequence

    @rule(target=sequences, source=sequences)
    def fork(self, source):
        sequence = source.fork()
        self.held[sequence] = list(self.held[source])
        return sequence

    @rule(sequence=sequences, share=st.floats(0, 1))
    def truncate(self, sequence, share):
        length = int(share * len(self.held[sequence]))
        sequence.truncate(length)
        del self.held[sequence][length:]

    @rule(sequence=consumes(sequences))
    def close(self, sequence):
        sequence.close()
        del self.held[sequence]

    @rule(batch=st.lists(st.tuples(sequences, ids), max_size=5, unique_by=lambda item: id(item[0])))
    def append(self, batch):
        try:
            logits = self.engine.eval(batch)
        except DcaError as error:
            assert error.status == Status.CONTEXT
            return
        for (sequence, new), row in zip(batch, logits, strict=True):
            self.held[sequence] += new
            with self.model.session(context=ROOM, cache_type="f32", scheme=SCHEME) as session:
                assert np.abs(row - session.eval(self.held[sequence])).max() < CLOSE

    @invariant()
    def every_sequence_holds_its_tokens(self):
        for sequence, tokens in getattr(self, "held", {}).items():
            assert sequence.ids.tolist() == tokens

    @invariant()
    def pages_are_those_of_the_sequences(self):
        if not hasattr(self, "held"):
            return
        used = self.engine.info.tokens_used
        pages = [-(-len(tokens) // 128) for tokens in self.held.values()]
        assert max(pages, default=0) * 128 <= used <= sum(pages) * 128
        if not pages:
            assert used == 0


@pytest.fixture(scope="module")
def model(tiny_gguf):
    with Model(tiny_gguf()) as model:
        yield model


def test_any_order_of_calls(model):
    calls = type("CallsOnModel", (Calls,), {"model": model})
    case = calls.TestCase
    case.settings = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case().runTest()

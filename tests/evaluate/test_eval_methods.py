"""Methods by name."""

import pytest

import dca_runtime as dca
from dca_export.errors import InputError
from dca_export.evaluate import methods
from dca_export.evaluate.methods import Method
from dca_export.scheme import Scheme


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("plain", Method("plain")),
        ("dca", Method("dca")),
        ("intra+inter", Method("intra+inter")),
        ("dca:3072/1024/4096", Method("dca", Scheme(3072, 1024, 4096))),
        ("intra:12/4/16/0.1/16", Method("intra", Scheme(12, 4, 16, 0.1, 16))),
    ],
)
def test_names_read_and_written(name, method):
    assert methods.parse(name) == method
    assert method.name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "dual",
        "plain:12/4/16",
        "dca:",
        "dca:12/4",
        "dca:12/4/16/0.1",
        "dca:a/b/c",
        "dca:16/4/16",
        "dca:1/2/3/x/4",
    ],
)
def test_wrong_names(name):
    with pytest.raises(InputError):
        methods.parse(name)


def test_a_session_runs_the_method(tiny_gguf):
    with dca.Model(tiny_gguf()) as model, methods.parse("dca:8/2/12").session(model, context=10) as session:
        assert session.info.scheme[:3] == (8, 2, 12)
        assert session.info.context == 10


def test_a_scheme_must_come_from_somewhere(tiny_gguf):
    with dca.Model(tiny_gguf()) as model:
        methods.check([Method("plain"), methods.parse("dca:8/2/12")], model)
        with pytest.raises(InputError, match="no scheme"):
            methods.check([Method("plain"), Method("intra")], model)
    with dca.Model(tiny_gguf(scheme=(12, 4, 16))) as model:
        methods.check([Method("intra")], model)


def test_rope_scaling_follows_the_at_sign():
    method = methods.parse("dca:3072/1024/4096@yarn:4")
    assert method.rope == "yarn:4"
    assert method.name == "dca:3072/1024/4096@yarn:4"
    assert method.options["rope"] == "yarn:4"


@pytest.mark.parametrize(
    "text", ["plain@", "plain@yarn", "plain@yarn:0.5", "plain@cubic:4", "plain@yarn:inf"]
)
def test_rope_scaling_must_make_sense(text):
    with pytest.raises(InputError, match="as in plain@yarn:4"):
        methods.parse(text)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dca@sparse:0.1", {"prefill": "sparse:0.1"}),
        ("dca@stated", {"prefill": "stated"}),
        ("dca:8/2/12@sparse:0.2:64", {"prefill": "sparse:0.2:64"}),
        ("plain@q4", {"cache_type": "q4"}),
        ("dca@yarn:4@sparse:0.5@q8", {"rope": "yarn:4", "prefill": "sparse:0.5", "cache_type": "q8"}),
    ],
)
def test_prefill_and_cache_follow_at_signs(name, options):
    method = methods.parse(name)
    assert method.name == name
    assert options.items() <= method.options.items()


def test_the_order_of_parts_does_not_matter():
    assert methods.parse("dca@q8@sparse:0.5@yarn:4") == methods.parse("dca@yarn:4@sparse:0.5@q8")


@pytest.mark.parametrize(
    "name",
    ["dca@sparse:2", "dca@stated:2", "dca@sparse:0.1@sparse:0.2", "plain@q4@q8", "sparse:0.1", "dca@q5"],
)
def test_prefill_and_cache_must_make_sense(name):
    with pytest.raises(InputError):
        methods.parse(name)


def test_the_methods_cache_replaces_the_experiments(tiny_gguf):
    with (
        dca.Model(tiny_gguf()) as model,
        methods.parse("plain@q8").session(model, cache_type="f16") as session,
    ):
        assert session.cache_type == "q8"


def test_methods_of_different_caches_share_no_prefill():
    assert not methods.shares_prefill(Method("plain"), Method("plain", cache="q8"))
    assert methods.shares_prefill(Method("dca"), Method("dca", prefill="sparse:0.1"))

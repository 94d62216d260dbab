"""Values of config.json are believed only once they are checked."""

import pytest

from dca_export.config import Config, read_json, read_json_object
from dca_export.errors import InputError


def config(**values) -> Config:
    return Config(values, "config.json")


def test_reads_a_file(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    assert Config.read(tmp_path / "config.json").integer("hidden_size") == 64


def test_null_counts_as_absent():
    assert "a" not in config(a=None)
    assert config(a=None).integer("a", 3) == 3
    assert config(a=None).section("a") is None


def test_a_whole_float_is_an_integer():
    assert config(max_position_embeddings=131072.0).integer("max_position_embeddings") == 131072


@pytest.mark.parametrize("value", [0, -1, 1.5, "7", True, [7], 2**31, float("nan"), float("inf"), 1e300])
def test_integer_refuses(value):
    with pytest.raises(InputError, match=r"^config.json: a is .*, must be an integer from 1 to"):
        config(a=value).integer("a")


@pytest.mark.parametrize("value", [0, -1.0, "7", True, float("nan"), float("inf")])
def test_positive_refuses(value):
    with pytest.raises(InputError, match=r"^config.json: a is "):
        config(a=value).positive("a")


@pytest.mark.parametrize("value", [7, [1.0, "2"], [1.0, float("nan")], [0.0], [True]])
def test_positives_refuses(value):
    with pytest.raises(InputError, match="^config.json: a "):
        config(a=value).positives("a")


def test_section_refuses_what_is_no_object():
    with pytest.raises(InputError, match="^config.json: rope_scaling is 4, must be an object"):
        config(rope_scaling=4).section("rope_scaling")


def test_errors_in_a_section_name_it():
    section = config(rope_scaling={"factor": "x"}).section("rope_scaling")
    assert section is not None
    with pytest.raises(InputError, match='^config.json: rope_scaling: factor is "x", must be a number'):
        section.positive("factor")


@pytest.mark.parametrize("get", [Config.integer, Config.positive, Config.positives])
def test_a_needed_key_that_is_missing_is_named(get):
    with pytest.raises(InputError, match="^config.json: hidden_size is missing$"):
        get(config(), "hidden_size")


def test_boolean_and_text_refuse_other_types():
    with pytest.raises(InputError, match="must be true or false"):
        config(a=1).boolean("a", False)
    with pytest.raises(InputError, match="must be a string"):
        config(a=1).text("a")


def test_long_values_are_shortened_in_errors():
    with pytest.raises(InputError) as caught:
        config(a=["x" * 500]).integer("a")
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")])
def test_what_is_no_json_names_the_file(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"^{path}: not valid JSON"):
        read_json(path)


def test_missing_file_and_wrong_kind(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON object, found list"):
        read_json_object(tmp_path / "config.json")

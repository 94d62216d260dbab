"""What stands in the place of a model's small files: pipes, devices, folders, dead links, endless files."""

import os
from pathlib import Path

import pytest
from hostile.limited import limited
from tiny_hf import write_tiny_model

from dca_export.cli.export import main

OPTIONAL = ("generation_config.json", "tokenizer_config.json", "chat_template.jinja", "quantize_config.json")
NEEDED = ("config.json", "tokenizer.json", "model.safetensors", "additional_chat_templates/a.jinja")


def _endless(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


PLACED = {
    "a pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def exported(folder: Path, name: str, place) -> tuple[int, str]:
    write_tiny_model(folder / "model")
    path = folder / "model" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    place(path)
    ended = limited(lambda: main([str(folder / "model"), str(folder / "out.gguf")]))
    assert ended.code != 2 or not (folder / "out.gguf").exists()
    return ended.code, ended.errors


@pytest.mark.parametrize("placed", PLACED)
@pytest.mark.parametrize("name", [*OPTIONAL, *NEEDED])
def test_what_is_no_file_is_named_and_nothing_is_written(tmp_path, name, placed):
    code, errors = exported(tmp_path, name, PLACED[placed])
    assert code == 2
    assert name in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize("name", [*OPTIONAL, "config.json", "tokenizer.json"])
def test_a_file_too_large_to_be_one_is_named(tmp_path, name):
    code, errors = exported(tmp_path, name, _endless)
    assert code == 2
    assert name in errors and "at most" in errors


def test_a_model_card_without_end_is_passed_over(tmp_path):
    code, errors = exported(tmp_path, "README.md", _endless)
    assert (code, errors) == (0, "")


def test_a_model_card_whose_facts_multiply_is_passed_over(tmp_path):
    keys = ["a: &k0 {x: 1}", *(f"b{i}: &k{i + 1} {{<<: [*k{i}, *k{i}]}}" for i in range(40))]
    card = "\n".join(["---", *keys, "---", "# Model"])
    code, errors = exported(tmp_path, "README.md", lambda path: path.write_text(card))
    assert (code, errors) == (0, "")

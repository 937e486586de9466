"""Files and folders are replaced as a whole or stay as they were."""

import pytest

from rdt import files


def test_a_file_is_replaced_once_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with files.replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path):
    path = tmp_path / "lora"
    path.mkdir()
    (path / "old").touch()
    with files.replacing(path) as unfinished:
        unfinished.mkdir()
        (unfinished / "new").touch()
    assert [file.name for file in path.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError, match="the disk is full"), files.replacing(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError("the disk is full")
    assert path.read_text() == '{\n "a": 1\n}' and list(tmp_path.iterdir()) == [path]

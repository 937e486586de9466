"""Names of files are derived from the labels of points."""

from rdt.result import slug


def test_file_names_keep_the_sign_of_a_number():
    assert slug("lora_scale scale=-1") != slug("lora_scale scale=1")
    assert slug("Adam 1e-05 / 2026-11") == "adam-1e-05-2026-11"

"""Texts that no tokenizer can read, and videos that are no numbers."""

import logging

import pytest
import torch

from m4v.core.errors import UserError
from m4v.pipelines.frames import present
from m4v.pipelines.prompts import as_prompts, negatives_for


def test_bytes_of_another_encoding_are_shown():
    foreign = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(UserError, match=r"'caf\\udce9' holds bytes that are not UTF-8"):
        as_prompts(foreign)
    for negative in (foreign, ["a", foreign]):
        with pytest.raises(UserError, match="not UTF-8"):
            negatives_for(negative, "", 2)
    assert as_prompts("café 日本") == ["café 日本"]


def test_videos_that_are_no_numbers_are_said(caplog):
    video = torch.zeros(1, 3, 1, 2, 2)
    with caplog.at_level(logging.WARNING):
        present(video, "np")
        assert caplog.text == ""
        video[0, 0, 0, 0, 0] = float("nan")
        present(video, "np")
    assert "no numbers" in caplog.text

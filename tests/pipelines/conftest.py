"""Pipelines shared by the tests of this folder."""

import pytest

from m4v.pipelines.m4v_pipeline import M4VPipeline
from tests.pipelines.debug_parts import debug_pipeline


@pytest.fixture(scope="session")
def pipeline() -> M4VPipeline:
    """A debug-size pipeline with random weights; tests do not change it."""
    return debug_pipeline()

"""A saved debug model for the tests of this folder."""

from pathlib import Path

import pytest

from tests.pipelines.debug_parts import debug_pipeline


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder; tests copy it before they break it."""
    folder = tmp_path_factory.mktemp("models") / "debug-model"
    debug_pipeline().save_pretrained(folder, training_facts={"recipe": "debug", "scores": {"colour": 0.5}})
    return folder

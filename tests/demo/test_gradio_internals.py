"""Parts of Gradio that the page uses, and that are not documented.

A test here fails when a new version changes such a part. Then read `page.py`, `server.py` and
`service/guard.py` beside the new source, mend what must be mended, and write the new facts down.
"""

import inspect
import re
from pathlib import Path

import gradio as gr
import gradio.routes
import pytest
from gradio import processing_utils, route_utils
from gradio.data_classes import FileData
from gradio.state_holder import StateHolder
from starlette.formparsers import MultiPartException

from demo.service.guard import _API, _CALLS, _UPLOAD


def test_a_closed_tab_can_be_forgotten() -> None:
    """`page._forget` deletes these; Gradio reads the capacity from the page that it serves."""
    holder = StateHolder()
    assert {"session_data", "time_last_used", "capacity"} <= {*vars(holder)}
    assert [*inspect.signature(holder.delete_state).parameters] == ["session_id", "expired_only"]
    adopted = inspect.getsource(StateHolder.set_blocks)
    assert "blocks.state_holder = self" in adopted
    assert "self.capacity = blocks.state_session_capacity" in adopted


def test_names_of_files_are_checked_only_of_a_page_that_was_launched() -> None:
    """Therefore `build_page` says that the page was launched."""
    source = inspect.getsource(processing_utils)
    assert "if blocks is None or not blocks.has_launched:" in source


@pytest.mark.parametrize(
    "name",
    [
        "auth",
        "enable_monitoring",
        "favicon_path",
        "footer_links",
        "head",
        "max_file_size",
        "mcp_server",
        "pwa",
        "run_history",
        "show_error",
        "ssr_mode",
        "theme",
    ],
)
def test_what_the_page_shuts_off_can_be_shut_off(name: str) -> None:
    assert name in inspect.signature(gr.mount_gradio_app).parameters


def test_an_upload_is_ended_by_the_error_that_gradio_catches() -> None:
    """`guard._uploaded` raises it, with the words that Gradio answers with 413."""
    assert route_utils.MultiPartException is MultiPartException
    source = inspect.getsource(gradio.routes)
    assert '413 if "maximum allowed size" in exc.message else 400' in source


def test_the_paths_that_the_guard_knows_are_gradios() -> None:
    source = inspect.getsource(gradio.routes)
    for path in (_UPLOAD, *_CALLS):
        assert f'"{path.removeprefix(_API)}"' in source, path


def test_a_refusal_of_a_click_is_shown_by_its_detail() -> None:
    """`guard._refused_call` has this form. Another one is shown as a complaint about JSON."""
    folder = Path(gradio.__file__).parent / "templates/frontend/assets"
    script = next(
        text
        for path in folder.glob("index-*.js")
        if "queue/join" in (text := path.read_text(encoding="utf-8"))
    )
    assert re.search(r"message:\w+\?\w+:(\w+)\.detail\|\|\1\.error", script)


def test_an_upload_is_named_by_the_keys_that_are_read() -> None:
    """`Upload.from_payload` reads them from a click that is not preprocessed."""
    assert {"path", "orig_name"} <= {*FileData.model_fields}

"""The page with uploads deleted after 2 seconds, and one more address that tells what it keeps.

This is a program for tests that look into the server: `page_with_a_window.py MODEL [unguarded]
[forgetful]`. With `unguarded` it has no guard, with `forgetful` it forgets pictures after a second.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from fastapi.responses import PlainTextResponse

from demo.service.models import Models


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from demo import page, server
        from demo.tabs import classify

        page.DELETE_CACHE_S = (1, 2)
        built: list[Any] = []
        build_page = page.build_page
        server.build_page = lambda models: built.append(build_page(models)) or built[0]
        if "forgetful" in sys.argv:
            classify.FORGET_S = 1
        if "unguarded" in sys.argv:
            server.Guard = lambda application, **_: application
        models = Models([Path(sys.argv[1])])
        served = server.build_page_application(models, uploads=Path(folder))

        async def with_window(scope: Any, receive: Any, send: Any) -> None:
            if scope.get("path") != "/window":
                await served(scope, receive, send)
                return
            files = [path.name for path in Path(folder).rglob("*") if path.is_file()]
            held = {"sessions": len(built[0].state_holder.session_data), "files": files}
            await PlainTextResponse(json.dumps(held))(scope, receive, send)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(f"page: http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
            config = uvicorn.Config(with_window, log_level="warning", timeout_graceful_shutdown=2)
            uvicorn.Server(config).run(sockets=[listener])
        models.close()


if __name__ == "__main__":
    main()

"""Serve a fitted pipeline over HTTP: the bytes of an image in, JSON out.

SKFEWSHOT_MODEL=model.joblib uvicorn serve:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/classify
"""

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from skfewshot.clip import ImageReadError

MOST_BYTES = 20 * 2**20


def make_app(model_file: str | Path) -> FastAPI:
    """Return an app that classifies images by the pipeline in a file of joblib."""
    loaded: dict[str, Any] = {}
    one_at_a_time = threading.Lock()  # an image has all the threads of the process

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        model = joblib.load(model_file)  # runs code: load only files of your own
        model[0].set_params(num_workers=0)  # threads that decode ahead are for many
        model[0].load()  # the weights now, and not in the first request
        model.predict([np.zeros((224, 224, 3), np.uint8)])
        loaded["model"] = model
        yield

    app = FastAPI(title="skfewshot", lifespan=lifespan)

    def classify_now(content: bytes) -> dict[str, Any]:
        with one_at_a_time:
            model = loaded["model"]
            # `predict_proba` gives float32, which JSON does not know; `tolist` gives
            # the plain numbers and strings of Python.
            (row,) = model.predict_proba([content]).tolist()
            classes = model.classes_.tolist()
        best = max(range(len(row)), key=row.__getitem__)
        probabilities = dict(zip(map(str, classes), row, strict=True))
        return {"label": classes[best], "probabilities": probabilities}

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                raise HTTPException(413, f"More than {MOST_BYTES:,} bytes.")
        try:
            return await run_in_threadpool(classify_now, content)
        except ImageReadError as error:
            raise HTTPException(422, "The body is no image to be read.") from error

    @app.get("/classes")
    def classes() -> list[Any]:
        return loaded["model"].classes_.tolist()

    return app


if "SKFEWSHOT_MODEL" in os.environ:
    app = make_app(os.environ["SKFEWSHOT_MODEL"])

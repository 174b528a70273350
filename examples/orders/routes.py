"""What the service does, whichever way it leaves."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

router = APIRouter()


@router.get("/orders/export")
async def export() -> StreamingResponse:
    """A streaming answer: it takes half a second to come out."""

    async def rows() -> AsyncIterator[str]:
        for order in range(10):
            yield f"{order},open\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(rows(), media_type="text/csv")


@router.get("/orders/{order}")
async def show(order: int) -> dict[str, object]:
    """A fast answer."""
    return {"order": order, "status": "open"}


@router.get("/orders/{order}/invoice")
async def invoice(order: int) -> dict[str, object]:
    """A slow answer: it has to be worked out."""
    await asyncio.sleep(0.4)
    return {"order": order, "total": "12.50"}

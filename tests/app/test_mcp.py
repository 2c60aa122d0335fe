"""The MCP server: three tools that answer as the service does; skipped, with the reason, without its package."""

import ast
import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from chrome import served

from gcl_toolkit.app.service import Service
from gcl_toolkit.app.tabs.about import API
from gcl_toolkit.views.bundle import read_bundle

pytest.importorskip("mcp", reason="mcp is not installed; pip install -e '.[app,mcp]'")


@pytest.fixture(scope="module")
def folder(small_study):
    return small_study / "bundle"


@pytest.fixture(scope="module")
def replies(folder):
    """What a client receives: the tools, an answer and a refusal."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask(url):
        async with streamablehttp_client(url) as (reading, writing, _), ClientSession(reading, writing) as client:
            await client.initialize()
            query = next(iter(Service(read_bundle(folder)).labels["zero_shot"]))
            good = await client.call_tool("search", {"query": query, "split": "zero_shot", "k": 3})
            refused = await client.call_tool("search", {"query": "", "k": 3})
            return query, (await client.list_tools()).tools, good, refused

    with served(folder, "--mcp") as url, ThreadPoolExecutor(1) as pool:  # browser tests may leave a loop in this thread
        return pool.submit(asyncio.run, ask(f"{url}gradio_api/mcp/")).result()


def test_the_tools_are_the_endpoints_and_say_what_they_do(replies):
    _, tools, *_ = replies
    seen = {f"/{tool.name}": ", ".join(tool.inputSchema["properties"]) for tool in tools}
    assert seen == {name: parameters for name, (parameters, _) in API.items()}
    assert all(tool.description for tool in tools)


def test_a_tool_answers_as_the_service_does_and_refuses_in_words(replies, folder):
    query, _, good, refused = replies
    service = Service(read_bundle(folder))
    expected = service.search("zero_shot", query, service.state().a, k=3).products
    found = ast.literal_eval(good.content[0].text)["products"]  # gradio sends Python's form
    assert not good.isError
    assert [product["product_id"] for product in found] == [product.product_id for product in expected]
    assert refused.isError
    assert "empty" in refused.content[0].text

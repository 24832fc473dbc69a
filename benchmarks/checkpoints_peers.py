"""The savers that are measured beside ours, each with what it needs, and all of them with the same durability.

Durability means: when a save returns, it survives a power cut. On SQLite that is `synchronous=FULL` with a log
(journal_mode=WAL). AsyncSqliteSaver sets WAL itself and leaves `synchronous` to SQLite's default, which is FULL; DBOS
sets neither, and SQLite's default without a log is as durable. Postgres is as it comes: fsync and synchronous_commit
on. Each side imports what it is about when it is opened: a ModuleNotFoundError says that it is not installed.
"""

import base64
import operator
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from checkpoints.saver import SqlSaver

NODES = 4
POSTGRES = "HOLDFAST_BENCH_POSTGRES"
"""The environment's name for the address of an empty Postgres database; without it a server is started for a while."""
_BINARIES = (Path("/usr/lib/postgresql"), Path("/usr/local/pgsql"), Path("/opt/homebrew/opt"))

Saver = Callable[[Path], AbstractAsyncContextManager[Any]]
"""Opens a saver in an empty folder; None is no saver at all."""
Run = Callable[[str], Awaitable[Any]]
"""Makes one run, by its id."""
Side = Callable[[Path, Sequence[str]], AbstractAsyncContextManager[Run]]
"""Makes runs of NODES steps in an empty folder, each step of which puts out the next payload."""


class Payload(TypedDict):
    """A state that each node rewrites."""

    payload: str


class Grown(TypedDict):
    """A state that each node adds to."""

    items: Annotated[list[str], operator.add]


@cache
def texts(size: int) -> list[str]:
    """Payloads of so many bytes: base64 of seeded noise, which no compressor makes much shorter."""
    draw = random.Random(size)  # noqa: S311 - payloads, not secrets
    return [base64.b64encode(draw.randbytes(size * 3 // 4)).decode() for _ in range(64)]


def growing(payloads: Sequence[str], steps: int) -> Any:
    """A graph whose one node adds to a plain list until it has so many items."""
    at = count()

    async def step(_state: Grown) -> Grown:
        return {"items": [f"{next(at)}{payloads[next(at) % len(payloads)]}"]}

    graph = StateGraph(Grown)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if len(state["items"]) < steps else END, ["step", END])
    return graph


def graph_of(saver: Saver) -> Side:
    """A graph whose every node rewrites the state, with this saver."""

    @asynccontextmanager
    async def opened(folder: Path, payloads: Sequence[str]) -> AsyncIterator[Run]:
        at = count()

        async def node(_state: Payload) -> Payload:
            return {"payload": payloads[next(at) % len(payloads)]}

        graph = StateGraph(Payload)
        graph.add_sequence([(f"node_{number}", node) for number in range(NODES)])
        graph.add_edge(START, "node_0")
        async with saver(folder) as each:
            compiled: Any = graph.compile(checkpointer=each)
            options: dict[str, Any] = {} if each is None else {"durability": "sync"}

            async def run(run_id: str) -> None:
                await compiled.ainvoke({"payload": ""}, {"configurable": {"thread_id": run_id}}, **options)

            yield run

    return opened


@asynccontextmanager
async def nobody(_folder: Path) -> AsyncIterator[None]:
    """No checkpointer."""
    yield None


@asynccontextmanager
async def ours(folder: Path) -> AsyncIterator[SqlSaver]:
    """SqlSaver on a file."""
    with SqlSaver.open(folder / "ours.db") as saver:
        yield saver


@asynccontextmanager
async def memory(_folder: Path) -> AsyncIterator[Any]:
    """LangGraph's saver in memory, which survives nothing."""
    from langgraph.checkpoint.memory import InMemorySaver

    yield InMemorySaver()


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Any]:
    """LangGraph's saver on a file."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(str(folder / "theirs.db")) as saver:
        await saver.setup()
        await saver.conn.execute("PRAGMA synchronous=FULL")
        for pragma, expected in (("synchronous", 2), ("journal_mode", "wal")):
            cursor = await saver.conn.execute(f"PRAGMA {pragma}")
            assert await cursor.fetchone() == (expected,)
        yield saver


def our_postgres(url: str) -> Saver:
    """SqlSaver on a server."""

    @asynccontextmanager
    async def opened(_folder: Path) -> AsyncIterator[SqlSaver]:
        with SqlSaver.open(url) as saver:
            yield saver

    return opened


def postgres(url: str) -> Saver:
    """LangGraph's saver on a server."""

    @asynccontextmanager
    async def opened(_folder: Path) -> AsyncIterator[Any]:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(url) as saver:
            await saver.setup()
            yield saver

    return opened


@asynccontextmanager
async def dbos(folder: Path, payloads: Sequence[str]) -> AsyncIterator[Run]:
    """A DBOS workflow with a step for each node."""
    from dbos import DBOS, SetWorkflowID

    url = f"sqlite:///{folder / 'dbos.db'}"
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "application_version": "1"})
    at = count()

    @DBOS.step()
    async def step() -> str:
        return payloads[next(at) % len(payloads)]

    @DBOS.workflow()
    async def relay() -> None:
        for _ in range(NODES):
            await step()

    async def run(run_id: str) -> None:
        with SetWorkflowID(run_id):
            await relay()

    DBOS.launch()
    try:
        yield run
    finally:
        DBOS.destroy()


@contextmanager
def postgres_url() -> Iterator[str | None]:
    """The address of a Postgres server: the environment's, or that of one started for as long; None without any."""
    given = os.environ.get(POSTGRES)
    binaries = _postgres_binaries()
    if given or binaries is None:
        yield given
        return
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))
    try:
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        command = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust"]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder)
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}'"
        control = [binaries / "pg_ctl", "-D", data, "-w"]
        subprocess.run(
            [*control, "-l", folder / "log", "-o", options, "start"], check=True, capture_output=True, user=user
        )
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, user=user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_binaries() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = [path.parent for root in _BINARIES for path in sorted(root.glob("**/bin/initdb"))]
    return folders[-1] if folders else None

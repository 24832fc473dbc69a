"""The pytest plugin, as a user's suite meets it: a pytest of its own, with pytest-asyncio and without."""

import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run a test file under the plugin alone, and under others that are named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # or the installed entry point would load it once more

    def suite(source, *others):
        pytester.makepyfile(source)
        plugins = [argument for name in ("holdfast_pytest", *others) for argument in ("-p", name)]
        return pytester.runpytest_inprocess(*plugins, "-q")

    return suite


def test_faults_without_back_off_on_the_real_clock(suite):
    result = suite("""
        import asyncio, time
        import pytest
        from agents.errors import ConfigError, FallbackExhausted, InjectedFault
        from graph.resilience import Fault, FaultAction, Guard, Retry

        async def answer():
            return "ok"

        def test_a_plan(faults):
            plan = faults("trend=error@1", Fault("volume", FaultAction.HANG), seed=7)
            assert (plan.seed, [fault.target for fault in plan.faults]) == (7, ["trend", "volume"])
            guard = Guard("trend", faults=plan, retry=Retry(base_seconds=60.0))
            began = time.monotonic()
            assert asyncio.run(guard.ask(answer)).attempts == 2
            assert time.monotonic() - began < 30, "the retry waited"

        def test_into_a_guard_that_exists(faults):
            guard = Guard("trend", retry=None)
            assert asyncio.run(guard(answer)) == "ok"
            with faults.into(guard, "trend=error"):
                with pytest.raises(InjectedFault):
                    asyncio.run(guard(answer))
            assert asyncio.run(guard(answer)) == "ok"
            assert guard.faults is None

        def test_breakers_are_afterwards_as_they_were_before(faults):
            guard = Guard("trend", fallbacks=[answer])
            guard.breakers["trend/answer"].isolate("by hand")
            guard.breakers["trend"].failure(0)
            with faults.into(guard, "trend=error"):
                for _ in range(2):
                    with pytest.raises(FallbackExhausted):
                        asyncio.run(guard(answer))
                assert guard.breakers["trend"].state == "open"
            states = [(breaker.state, breaker.failures, breaker.reason) for breaker in guard.breakers.values()]
            assert states == [("closed", 1, ""), ("isolated", 0, "by hand")]
            assert asyncio.run(guard.ask(answer)).link == "trend"

        def test_what_is_no_fault_or_for_nobody(faults):
            with pytest.raises(ConfigError):
                faults("trend")
            with pytest.raises(ConfigError, match="matches no guard"):
                faults.into(Guard("trend"), "volume=error")
    """)
    result.assert_outcomes(passed=4)


def test_back_off_is_back_when_the_test_is_over(suite):
    result = suite("""
        import asyncio
        from graph.resilience import Guard, FaultPlan

        waits = []

        async def sleep(seconds):
            waits.append(seconds)

        async def answer():
            return "ok"

        def ask(plan):
            asyncio.run(Guard("trend", faults=plan, sleep=sleep)(answer))

        def test_with(faults):
            ask(faults("trend=error@1"))
            assert waits == [0.0]

        def test_without():
            ask(FaultPlan.parse(["trend=error@1"]))
            assert waits[-1] > 0.4

        def test_on_virtual_time_retries_wait(faults, virtual_clock):
            before = virtual_clock.now
            virtual_clock.run(Guard("trend", faults=faults("trend=error@1"))(answer))
            assert 0.5 <= virtual_clock.now - before <= 1.5
    """)
    result.assert_outcomes(passed=3)


def test_the_virtual_clock(suite):
    result = suite("""
        import asyncio, threading, time
        import pytest
        from graph.resilience import FaultPlan, Guard

        async def rules():
            return "rules"

        async def model():
            return "model"

        def test_hung_attempts_take_no_time(virtual_clock, faults):
            began, real = virtual_clock.now, time.monotonic()
            guard = Guard("model", attempt_timeout=10.0, fallbacks=[rules], faults=faults("model=hang"))
            assert virtual_clock.run(guard(model)) == "rules"
            assert 30.0 < virtual_clock.now - began < 36.0
            assert time.monotonic() - real < 30.0

        def test_time_goes_on_from_run_to_run(virtual_clock):
            virtual_clock.run(asyncio.sleep(3600))
            virtual_clock.run(asyncio.sleep(3600))
            assert virtual_clock.now == pytest.approx(1000 + 7200)

        def test_synchronous_agents_run_inline(virtual_clock):
            def where():
                return threading.current_thread() is threading.main_thread()

            assert virtual_clock.run(Guard("agent")(where))

        def test_what_can_never_end_is_an_error(virtual_clock):
            async def stuck():
                await asyncio.get_running_loop().create_future()

            with pytest.raises(RuntimeError, match="simulation deadlock at 1000.000 s"):
                virtual_clock.run(stuck())
            assert virtual_clock.run(model()) == "model"
    """)
    result.assert_outcomes(passed=4)


def test_the_network_is_blocked_and_open_again_afterwards(suite):
    result = suite("""
        import asyncio, contextlib, socket
        import pytest

        AWAY = ("192.0.2.1", 9)
        KEPT = (socket.socket.connect, socket.getaddrinfo)

        def udp():
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        def test_every_way_out(network_blocked):
            with socket.socket() as one, udp() as two:
                for way in (
                    lambda: one.connect(AWAY),
                    lambda: one.connect_ex(AWAY),
                    lambda: two.sendto(b"x", AWAY),
                    lambda: two.sendmsg([b"x"], [], 0, AWAY),
                    lambda: socket.getaddrinfo("example.com", 80),
                    lambda: socket.getaddrinfo(host=b"example.com", port=80),
                    lambda: socket.gethostbyname("example.com"),
                    lambda: socket.gethostbyname_ex("example.com"),
                    lambda: socket.gethostbyaddr("example.com"),
                    lambda: socket.gethostbyaddr(AWAY[0]),
                    lambda: socket.getnameinfo(AWAY, 0),
                    lambda: socket.create_connection(AWAY),
                    lambda: asyncio.run(asyncio.open_connection(*AWAY)),
                    lambda: asyncio.run(asyncio.open_connection("example.com", 80)),
                ):
                    with pytest.raises(ConnectionRefusedError, match="may not use the network"):
                        way()
                assert socket.getfqdn(AWAY[0]) == AWAY[0]  # it takes an error for no name
            assert len(network_blocked.refused) == 15
            assert network_blocked.refused[0] == AWAY
            assert network_blocked.refused[-4:] == [AWAY, AWAY, ("example.com",), (AWAY[0],)]

        @pytest.mark.parametrize("debug", [False, True])
        def test_every_way_out_of_a_loop(network_blocked, debug):
            async def refused(way, *given, **more):
                with pytest.raises(ConnectionRefusedError, match="may not use the network"):
                    await way(*given, **more)

            async def leave():
                loop = asyncio.get_running_loop()
                with udp() as one:
                    one.setblocking(False)
                    await refused(loop.sock_connect, one, AWAY)
                    await refused(loop.sock_sendto, one, b"x", AWAY)
                await refused(loop.getaddrinfo, "example.com", 80)
                await refused(loop.getnameinfo, AWAY)
                await refused(loop.create_connection, asyncio.Protocol, *AWAY)
                await refused(loop.create_datagram_endpoint, asyncio.DatagramProtocol, remote_addr=AWAY)
                await refused(loop.create_server, asyncio.Protocol, "example.com", 80)

            asyncio.run(leave(), debug=debug)
            assert len(network_blocked.refused) == 7

        def test_what_sends_nothing_is_open(network_blocked):
            assert socket.getaddrinfo(*AWAY, type=socket.SOCK_STREAM)[0][4] == AWAY
            assert socket.gethostbyname(AWAY[0]) == AWAY[0]
            assert socket.getnameinfo(AWAY, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == (AWAY[0], "9")
            with contextlib.suppress(OSError):  # a machine may have no name for it; one that is blocked is in `refused`
                socket.gethostbyaddr("127.0.0.1")
            assert socket.getnameinfo(("127.0.0.1", 9), socket.NI_NUMERICSERV)[1] == "9"
            network_blocked.check(("::ffff:127.0.0.1", 9, 0, 0))
            one, other = socket.socketpair()
            with one, other:
                assert one.sendmsg((b"a", b"b")) == 2  # a tuple, and no address
                assert other.recv(2) == b"ab"
            assert network_blocked.refused == []

        def test_loopback_and_unix_sockets_are_open(network_blocked, tmp_path, monkeypatch):
            async def echo(host, **family):
                async def serve(reader, writer):
                    writer.write(await reader.read(1))
                    writer.close()

                server = await asyncio.start_server(serve, host, 0, **family)
                port = server.sockets[0].getsockname()[1]
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"x")
                assert await reader.read(1) == b"x"
                writer.close()
                server.close()

            asyncio.run(echo("127.0.0.1"))
            asyncio.run(echo("localhost", family=socket.AF_INET))
            monkeypatch.chdir(tmp_path)  # the path of a Unix socket must be short
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
                server.bind("socket")
                server.listen()
                client.connect("socket")
            assert network_blocked.refused == []

        def test_it_is_over():
            assert (socket.socket.connect, socket.getaddrinfo) == KEPT
            assert "connect" not in vars(socket.socket)
    """)
    result.assert_outcomes(passed=6)


ASYNCHRONOUS = """
    import asyncio
    import pytest
    from graph.resilience import Guard, Retry

    async def answer():
        return "ok"

    async def test_faults(faults, network_blocked):
        guard = Guard("trend", faults=faults("trend=error@1"), retry=Retry(base_seconds=60.0))
        assert (await guard.ask(answer)).attempts == 2

    async def test_a_virtual_clock_is_for_plain_functions(virtual_clock):
        with pytest.raises(RuntimeError, match="make the test a plain function"):
            virtual_clock.run(answer())
"""


def test_beside_pytest_asyncio(suite, pytester):
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    suite(ASYNCHRONOUS, "pytest_asyncio.plugin").assert_outcomes(passed=2)


def test_virtual_time_for_tests_of_pytest_asyncio(suite, pytester):
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makeconftest("""
        from graph.resilience.virtual import VirtualLoop

        def pytest_asyncio_loop_factories(config, item):
            return {"virtual": VirtualLoop}
    """)
    result = suite(
        """
        import asyncio

        async def test_an_hour(faults):
            await asyncio.sleep(3600)
            assert asyncio.get_running_loop().time() >= 4600
        """,
        "pytest_asyncio.plugin",
    )
    result.assert_outcomes(passed=1)


def test_a_user_sees_the_fixtures_explained(suite, pytester):
    pytester.makepyfile("")
    shown = pytester.runpytest_inprocess("-p", "holdfast_pytest", "--fixtures").stdout.str()
    for name in ("faults -- ", "virtual_clock -- ", "network_blocked -- "):
        assert name in shown


def declared():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_once_installed_nothing_has_to_be_named():
    plugin = declared()["project"]["entry-points"]["pytest11"]["holdfast"]
    assert f"{plugin}.py" in declared()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    (entry,) = [each for each in metadata.entry_points(group="pytest11") if each.name == "holdfast"] or [None]
    if entry is None or entry.value != plugin:
        pytest.skip("this environment was installed before the plugin was; run `make test` to install it again")
    assert {"faults", "virtual_clock", "network_blocked"} <= set(vars(entry.load()))


def test_nothing_of_holdfast_is_imported_before_a_fixture_is_asked_for():
    probe = "import sys, pytest; before = set(sys.modules); import holdfast_pytest; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == ["holdfast_pytest"]


def test_a_project_with_a_graph_package_of_its_own_is_left_alone(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.mkpydir("graph").joinpath("plot.py").write_text("axes = 2\n")
    pytester.makepyfile(
        test_own="""
        from graph.plot import axes

        def test_their_own():
            assert axes == 2

        def test_who_asks_is_told_in_one_line(virtual_clock):
            assert False, "not reached"
        """
    )
    result = pytester.runpytest_subprocess("-p", "holdfast_pytest", "-q")
    result.assert_outcomes(passed=1, errors=1)
    told = [line for line in result.stdout.lines if "No module named" in line and not line.startswith("ERROR")]
    assert len(told) == 1, result.stdout
    assert "a fixture of Holdfast was asked for, and cannot be made: No module named 'graph.resilience'" in told[0]
    assert str(pytester.path / "graph" / "__init__.py") in told[0]


def test_no_socket_of_this_suite_was_left_blocked():
    assert "connect" not in vars(socket.socket)

"""What a sweep came to is told at the end of the tests: a promise is worth what it was tried with."""

SUMS = "kill points"
"""The property of a test's report that has it: reports come from whichever process ran the test."""


def pytest_terminal_summary(terminalreporter):
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, line in getattr(report, "user_properties", ()):
                if name == SUMS and getattr(report, "when", "") == "call":
                    terminalreporter.write_line(f"{SUMS}: {line}")

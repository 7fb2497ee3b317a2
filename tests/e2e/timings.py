"""What --timings --json reports of a real boot, and the gates on its counts."""

import harness
from harness import guest

MARKS = ["first_run", "kernel", "init", "agent", "reply", "gone"]
COUNTS = ["user_exits_until_init", "user_exits_until_reply", "kernel_exits", "pages_touched",
          "syscalls_until_first_run", "waits_until_first_run"]


def tests(tap):
    result = guest("--timings", "--json", "--", "sh", "-c", "echo noise >&2")
    report = harness.last_json(result.errors) or {}
    tap.check("the report is the last line of standard error", report.get("path") == "boot", result)
    marks, counts = report.get("marks_us", {}), report.get("counts", {})
    tap.equal("it has the six marks", list(marks), MARKS)
    tap.check("in the order of a boot", all(isinstance(mark, int) for mark in marks.values()) and list(marks.values()) == sorted(marks.values()), marks)
    tap.check("and all counts", all(name in counts for name in COUNTS), list(counts))
    for name in COUNTS[:2]:
        group = counts.get(name) or {}
        parts = group.get("by_address", {})
        tap.check(f"{name}: the addresses add up to the total", parts and sum(parts.values()) == group["total"], group)
    tap.check("the kernel's exits are told by reason", len((counts.get("kernel_exits") or {}).get("by_reason", {})) > 3, counts.get("kernel_exits"))
    tap.check("pages were touched", (counts.get("pages_touched") or 0) > 1000, counts.get("pages_touched"))
    syscalls = counts.get("syscalls_until_first_run")
    if syscalls is None:
        tap.skip("system calls are counted", "tracepoints may not be used on this host")
    else:
        tap.check("system calls are counted", 20 < syscalls < 1000, syscalls)
    gate = (counts.get("user_exits_until_init") or {}).get("total", 10**9)
    tap.check("gate: at most 100 exits to user space until init", gate <= 100, gate)
    tap.check("gate: the VMM has at most 8 MiB beyond the guest's memory", (report.get("vmm_kib") or 10**9) <= 8192, report.get("vmm_kib"))
    return report

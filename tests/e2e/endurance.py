"""VMMs that are killed while their guests write: what a guest was told is on its disk is there, and nothing of the
machine is left. HUTCH_ENDURANCE says how often, 4 without."""

import os
import pathlib
import random
import time

import harness
from disks import file_system

# Says what is on the disk, then writes a number after the other, and says it once it is there to stay.
WRITER = """
mkdir -p /mnt/disk; mount /dev/vdc /mnt/disk || exit 9
last=$(tail -n 1 /mnt/disk/log 2>/dev/null || echo 0)
seq 1 "${last:-0}" | cmp -s - /mnt/disk/log || [ "${last:-0}" = 0 ] || echo "broken after $last"
echo "found ${last:-0}"
n=${last:-0}
while n=$((n + 1)); do echo $n >>/mnt/disk/log && sync /mnt/disk/log && echo "wrote $n"; done
"""


def vmms():
    return harness.processes("hutch-vmm")


def kill_vmm():
    """SIGKILL for the one VMM that there is, where it runs."""
    lines = vmms()
    return len(lines) == 1 and harness.inside("kill", "-9", lines[0].split()[0]).code == 0


def tests(tap):
    if harness.runs_on_kvm():
        tap.skip("VMMs are killed while guests write", "other tests' VMMs are on this host, too")
        return
    count = int(os.environ.get("HUTCH_ENDURANCE", "4"))
    chance = random.Random(count)
    told, lost, broken, codes, alive = 0, [], [], set(), []
    with harness.scratch() as folder:
        disk = pathlib.Path(folder) / "disk.img"
        file_system(disk)
        for turn in range(count):
            process = harness.start("run", "--image", "min", "--no-stdin", "--disk", disk, "--", "sh", "-c", WRITER)
            output = harness.Output(process.stdout)
            if not output.wait_for(b"wrote "):
                broken.append(f"turn {turn}: {output.seen!r} {process.stderr.read()!r}")
                process.kill()
                break
            time.sleep(chance.random())
            if not kill_vmm():
                alive.append(turn)
                process.kill()
            codes.add(harness.finish(process))
            text = (output.seen + process.stdout.read()).decode(errors="replace")
            # The last line may be cut.
            words = [line.split() for line in text.split("\n")[:-1]]
            found = [int(line[1]) for line in words if line[0] == "found"]
            wrote = [int(line[1]) for line in words if line[0] == "wrote"]
            if found and found[0] < told:
                lost.append(f"turn {turn}: told {told}, found {found[0]}")
            if "broken" in text:
                broken.append(f"turn {turn}: {text[:200]}")
            told = max([told, *wrote])
        tap.check(f"{count} VMMs killed while their guests write: each run ends with 125", codes == {125} and not alive, (codes, alive))
        tap.check("no write is lost of which a guest was told", told > count and not lost, (told, lost))
        tap.equal("and nothing else is in its place", broken, [])
        tap.check("no process of them is left", harness.eventually(lambda: not vmms()), vmms())

"""Reads every #include of the tree against the floors of the house (docs/architecture.md).

An include may go down a floor or stay in its own room; rooms of one floor never include each other.
Prints one TAP line a room.
"""

import pathlib
import re
import sys

FLOORS = [
    ["base"],
    ["memory", "protocol", "artefacts", "policy", "event-log", "snapshot"],
    ["kvm", "bus", "serve-options"],
    ["virtio", "devices", "boot", "net"],
    ["vmm", "broker", "jail"],
    ["control", "cli", "lib"],
]
# Beside the house; what each may include.
BESIDE = {"guest-agent": {"base", "protocol"},
          "bench": {"base", "memory", "artefacts", "kvm", "boot", "vmm"}}
# Floor 5 reaches the VMM only through protocol/.
ONLY = {"control": {"base", "protocol", "artefacts", "policy", "event-log", "serve-options"},
        "cli": {"base", "protocol", "artefacts", "serve-options"},
        "lib": {"base", "protocol", "policy"}}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def allowed(room):
    if room in BESIDE:
        return BESIDE[room] | {room}
    if room in ONLY:
        return ONLY[room] | {room}
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return {below for floor in FLOORS[:number] for below in floor} | {room}
    raise KeyError(room)


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    rooms = [room for floor in FLOORS for room in floor] + list(BESIDE)
    present = [room for room in rooms if (root / room).is_dir()]
    failures = 0
    print(f"1..{len(present)}")
    for number, room in enumerate(present, 1):
        wrong, count = [], 0
        for path in sorted((root / room).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            is_test = path.name.endswith("_test.cc")
            for line_number, line in enumerate(path.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                count += 1
                target = match.group(1).split("/")[0]
                # The fake driver and other helpers of tests live in tests/.
                if target in allowed(room) or (is_test and target == "tests"):
                    continue
                wrong.append(f"{path.relative_to(root)}:{line_number}: {match.group(1)}")
        ok = not wrong and count > 0
        failures += not ok
        print(f"{'ok' if ok else 'not ok'} {number} - {room}: {count} includes go down or stay")
        for text in wrong:
            print(f"# {text}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

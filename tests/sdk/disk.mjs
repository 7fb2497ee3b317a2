// C13: sandboxes that are forked while they write as fast as they can: what a program was told is on its disk is on the
// disk of the fork, and the file systems have nothing to complain about. Prints TAP; the variables as for fork.mjs.
import { Sandbox } from "@deno/sandbox";
import { assert } from "./checks/lib.mjs";
import { check, finish } from "./checks/tap.mjs";


// Appends numbered records, each with its own hash, and says the number of one that fsync() has promised.
const writer = `
import hashlib, os, time
open("/home/app/writer", "w").write("%d\\n" % os.getpid())
file = os.open("/home/app/records", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
n = 0
while True:
    n += 1
    text = b"%015d" % n
    os.write(file, text + hashlib.sha256(text).hexdigest()[:48].encode() + b"\\n")
    os.fsync(file)
    print(n, flush=True)
    time.sleep(0.02)
`;
// How many whole records there are from the first one on; what follows them may only be a part of one.
const counter = `
import hashlib
bytes, n = open("/home/app/records", "rb").read(), 0
while True:
    record = bytes[n * 64:n * 64 + 64]
    text = b"%015d" % (n + 1)
    if record != text + hashlib.sha256(text).hexdigest()[:48].encode() + b"\\n": break
    n += 1
print(n, len(bytes) - n * 64)
`;
// The disk as well as the way to the client are busy all the time.
const load = `echo $$ >/home/app/loader; while :; do dd if=/dev/zero of=/home/app/load bs=64k count=32 conv=fsync 2>/dev/null; rm /home/app/load; sleep 0.05; done`;

/** The records of a sandbox, read from its disk: [whole ones, bytes behind them]. */
async function records(sandbox) {
  await sandbox.sh`sudo sh -c ${"echo 3 >/proc/sys/vm/drop_caches"}`;
  return (await sandbox.sh`python3 -c ${counter}`.text()).trim().split(" ").map(Number);
}
const stop = (sandbox) => sandbox.sh`sh -c ${"kill $(cat /home/app/writer /home/app/loader); true"}`;
const complaints = (sandbox) =>
  sandbox.sh`sh -c ${'sudo dmesg | grep -iE "ext4.*(error|warning|corrupt)|i/o error|aborted" || true'}`.text();
const hash = (sandbox) => sandbox.sh`sha256sum /home/app/large`.text();

let parent, large, told = 0;
const forks = [];
await check("C13: a sandbox writes, and its client hears of each record that is on the disk", async () => {
  parent = await Sandbox.create({ memory: "768MiB", timeout: "600m" });
  await parent.sh`sh -c ${"head -c 4000000 /dev/urandom >/home/app/large; sync"}`;
  large = await hash(parent);
  await parent.spawn("sh", { args: ["-c", load] });
  await parent.spawn("sh", { args: ["-c", "while :; do head -c 20000 /dev/zero | od -v; sleep 0.2; done"], stdout: "piped" });
  const child = await parent.spawn("python3", { args: ["-c", writer], stdout: "piped" });
  (async () => {
    let text = "";
    for await (const bytes of child.stdout) {
      text = (text + new TextDecoder().decode(bytes)).slice(-40);
      const lines = text.split("\n");
      if (lines.length > 1) told = Number(lines.at(-2));
    }
  })().catch(() => {});
  for (const end = Date.now() + 120_000; told < 20;) {
    assert.ok(Date.now() < end, `only ${told} records`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
});
for (let round = 1; round <= 2; round++) {
  await check(`C13: what was on the disk when it was forked is on the fork's (${round})`, async () => {
    const before = told;
    const fork = await Sandbox.create({ root: `fork:${parent.id}`, timeout: "600m" });
    forks.push(fork);
    await stop(fork);
    const [whole, rest] = await records(fork);
    assert.ok(whole >= before, `${whole} records, ${before} were promised`);
    assert.ok(rest < 64, `${rest} bytes behind ${whole} records`);
    assert.equal(await hash(fork), large);
    assert.equal(await complaints(fork), "");
    await fork.fs.writeTextFile("/home/app/own", `${round}`);
    // It has to be read from the disk later on.
    await fork.sh`sync`;
  });
}
await check("C13: the forks' disks are their own, and the sandbox goes on writing", async () => {
  const before = told;
  for (const end = Date.now() + 120_000; told < before + 5;) {
    assert.ok(Date.now() < end, `${told} records, as before`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  for (const [index, fork] of forks.entries()) assert.equal(await fork.fs.readTextFile("/home/app/own"), `${index + 1}`);
  await stop(parent);
  const [whole, rest] = await records(parent);
  assert.ok(whole >= told && rest < 64, `${whole} records and ${rest} bytes, ${told} were promised`);
  assert.equal(await complaints(parent), "");
  assert.equal(await hash(parent), large);
});
await Promise.all([parent, ...forks].map((sandbox) => sandbox?.kill()));
finish();

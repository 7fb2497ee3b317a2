// A sandbox that runs, forked while its programs run: what goes on in the fork, what is its own, what is not.
// Prints TAP; the three environment variables that `hutch serve` prints must be set, and TEST_HTTP_PORT, a server of
// the tests' own Internet. HUTCH names the program.
import process from "node:process";
import { Sandbox } from "@deno/sandbox";
import { assert, rejection } from "./checks/lib.mjs";
import { check, finish, hutch, until } from "./checks/tap.mjs";


const forkOf = (sandbox, options) => Sandbox.create({ root: `fork:${sandbox.id}`, timeout: "20m", ...options });
const read = async (sandbox, path) => Number((await sandbox.fs.readTextFile(path)).trim());
// A line each, also of a file that is empty.
const identity = `echo "$(cat /etc/machine-id)"; cat /proc/sys/kernel/random/boot_id
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; echo; hostname`;

// It counts, in memory as well as on its disk, and shows how far it is.
const counter = `n=0; while :; do n=$((n + 1)); echo $n >/tmp/new; mv /tmp/new /home/app/count; sleep 0.05; done`;

let parent, fork, other;
await check("a sandbox that runs is forked", async () => {
  parent = await Sandbox.create({ memory: "768MiB", timeout: "20m", labels: { role: "parent" } });
  await parent.fs.writeTextFile("/home/app/kept", "before the fork");
  await parent.sh`sh -c ${`(${counter}) >/dev/null 2>&1 & echo $! >/home/app/pid`}`;
  await until(async () => await read(parent, "/home/app/count").catch(() => 0) >= 3);
  fork = await forkOf(parent);
  assert.notEqual(fork.id, parent.id);
});
await check("its files and its programs are there, and the programs go on", async () => {
  assert.equal(await fork.fs.readTextFile("/home/app/kept"), "before the fork");
  assert.equal(await read(fork, "/home/app/pid"), await read(parent, "/home/app/pid"));
  for (const sandbox of [parent, fork]) {
    const before = await read(sandbox, "/home/app/count");
    assert.ok(before >= 3);
    await until(async () => await read(sandbox, "/home/app/count") > before);
  }
});
await check("what one does is not seen in the other", async () => {
  await fork.fs.writeTextFile("/home/app/kept", "in the fork");
  await parent.fs.writeTextFile("/home/app/new", "in the parent");
  await fork.sh`sh -c ${"kill $(cat /home/app/pid); sync"}`;
  assert.equal(await parent.fs.readTextFile("/home/app/kept"), "before the fork");
  await rejection(fork.fs.readTextFile("/home/app/new"), "NotFound");
  const before = await read(parent, "/home/app/count");
  await until(async () => await read(parent, "/home/app/count") > before);
  const stopped = await read(fork, "/home/app/count");
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(await read(fork, "/home/app/count"), stopped);
});
await check("a fork can be forked, and more than one at once", async () => {
  const [first, second] = await Promise.all([forkOf(fork), forkOf(fork)]);
  assert.equal(await first.fs.readTextFile("/home/app/kept"), "in the fork");
  assert.equal(await second.fs.readTextFile("/home/app/kept"), "in the fork");
  await first.kill();
  other = second;
});
await check("none has what tells another one apart", async () => {
  const seen = (await Promise.all([parent, fork, other].map((sandbox) => sandbox.sh`sh -c ${identity}`.text())))
    .map((text) => text.split("\n"));
  const ids = [parent, fork, other].map(({ id }) => id);
  assert.equal(new Set(ids).size, 3);
  for (let line = 0; line < 4; line++) assert.equal(new Set(seen.map((lines) => lines[line])).size, 3, JSON.stringify(seen));
  assert.deepEqual(await Promise.all([parent, fork, other].map((sandbox) => sandbox.env.get("DENO_SANDBOX_ID"))), ids);
  const before = Date.now();
  const clock = Number(await other.sh`date +%s%3N`.text());
  assert.ok(clock > before - 1000 && clock < Date.now() + 1000, `${before} ${clock} ${Date.now()}`);
});
await check("it outlives what it is of", async () => {
  await parent.kill();
  assert.equal(await fork.fs.readTextFile("/home/app/kept"), "in the fork");
  await rejection(forkOf(parent), "ConnectionEstablishmentError", "SANDBOX_ALREADY_TERMINATED");
});
await check("it has the size of what it is of, and no other", async () => {
  const size = async (sandbox) => await sandbox.sh`sh -c ${"head -n 1 /proc/meminfo"}`.text();
  assert.equal(await size(other), await size(fork));
  const error = await forkOf(fork, { memory: "1GiB" }).then(() => undefined, (error) => error);
  assert.match(String(error), /768 MiB/);
});
await check("its connections are gone, and it makes new ones", async () => {
  const port = process.env.TEST_HTTP_PORT;
  const talker = await Sandbox.create({ memory: "768MiB", timeout: "20m", allowNet: ["plain.test"] });
  await talker.fs.writeTextFile("/home/app/talk.py", `
import socket
link = socket.create_connection(("plain.test", ${port}))
open("/home/app/connected", "w").close()
try:
    found = repr(link.recv(1))
except OSError as error:
    found = type(error).__name__
open("/home/app/new", "w").write(found)
import os
os.rename("/home/app/new", "/home/app/found")
`);
  await talker.spawn("python3", { args: ["/home/app/talk.py"] });
  const exists = async (sandbox, path) => await sandbox.fs.stat(path).then(() => true, () => false);
  await until(() => exists(talker, "/home/app/connected"));
  const listener = await forkOf(talker);
  await until(() => exists(listener, "/home/app/found"));
  assert.equal(await listener.fs.readTextFile("/home/app/found"), "ConnectionResetError");
  assert.equal(await exists(talker, "/home/app/found"), false);
  assert.equal(await listener.sh`curl -sS -m 60 http://plain.test:${port}/echo/5`.text(), "xxxxx");
  await Promise.all([talker, listener].map((sandbox) => sandbox.kill()));
});
await check("hutch fork makes several of one moment, which live on without a client", async () => {
  const ids = (await hutch("fork", "-n", "3", "--timeout", "10m", fork.id)).trim().split("\n");
  assert.equal(new Set([...ids, fork.id]).size, 4);
  const made = await Promise.all(ids.map((id) => Sandbox.connect({ id })));
  for (const sandbox of made) assert.equal(await sandbox.fs.readTextFile("/home/app/kept"), "in the fork");
  const seen = await Promise.all(made.map((sandbox) => sandbox.sh`sh -c ${identity}`.text()));
  for (let line = 0; line < 4; line++) assert.equal(new Set(seen.map((text) => text.split("\n")[line])).size, 3, JSON.stringify(seen));
  await Promise.all(made.map((sandbox) => sandbox.kill()));
  await assert.rejects(hutch("fork", ids[0]), (error) => error.code === 125 && /terminated/.test(error.stderr));
  await assert.rejects(hutch("fork", "-n", "0", fork.id), (error) => error.code === 2);
  await assert.rejects(hutch("fork", "--timeout", "soon", fork.id), (error) => error.code === 2 && /--timeout/.test(error.stderr));
});
await check("hutch pause lets it stand still, hutch resume go on", async () => {
  await other.sh`sh -c ${`(${counter}) >/dev/null 2>&1 & echo $! >/home/app/pid`}`;
  await until(async () => await read(other, "/home/app/count").catch(() => 0) >= 3);
  assert.equal(JSON.parse(await hutch("pause", "--json", other.id)).paused, true);
  let answered = false;
  const late = read(other, "/home/app/count").then((count) => (answered = true, count));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.equal(answered, false);
  await assert.rejects(hutch("fork", other.id), (error) => error.code === 125 && /paused/.test(error.stderr));
  assert.equal(await hutch("resume", other.id), "");
  const count = await late;
  await until(async () => await read(other, "/home/app/count") > count);
  const before = Date.now();
  const clock = Number(await other.sh`date +%s%3N`.text());
  assert.ok(clock > before - 1000 && clock < Date.now() + 1000, `${before} ${clock} ${Date.now()}`);
  await hutch("pause", other.id);
});
await check("all of them end, also one that stands still", async () => {
  await Promise.all([fork, other].map((sandbox) => sandbox.kill()));
});
finish();

// Twenty sandboxes at once: made together, each answers with what is its own and is nobody's double, all
// end.
// Prints TAP; the three environment variables that `hutch serve` prints must be set.
import { Sandbox } from "@deno/sandbox";
import { assert } from "./checks/lib.mjs";
import { check, finish } from "./checks/tap.mjs";

const COUNT = 20;

let all = [];
await check(`${COUNT} sandboxes are made at once`, async () => {
  const made = await Promise.allSettled(
    Array.from({ length: COUNT }, () => Sandbox.create({ memory: "768MiB", timeout: "20m" })));
  all = made.filter(({ status }) => status === "fulfilled").map(({ value }) => value);
  assert.deepEqual(made.filter(({ status }) => status === "rejected").map(({ reason }) => String(reason)), []);
  assert.equal(new Set(all.map(({ id }) => id)).size, COUNT);
});
await check("each keeps what is its own", async () => {
  await Promise.all(all.map((sandbox, i) => sandbox.fs.writeTextFile("/tmp/own", `${i} ${sandbox.id}`)));
  const seen = await Promise.all(all.map((sandbox) => sandbox.sh`cat /tmp/own`.text()));
  assert.deepEqual(seen, all.map((sandbox, i) => `${i} ${sandbox.id}`));
});
// All but the first few are forks of one machine: nothing that tells a machine from others may be left.
await check("no two of them are alike", async () => {
  const script = `echo "$(cat /etc/machine-id)"; cat /proc/sys/kernel/random/boot_id
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
    printenv DENO_SANDBOX_ID; hostname; getent hosts $(hostname) | wc -l`;
  const seen = await Promise.all(all.map((sandbox) => sandbox.sh`sh -c ${script}`.text()));
  const lines = seen.map((text) => text.replace(/\n$/, "").split("\n"));
  assert.ok(lines.every((line) => line.length === 6), JSON.stringify(lines));
  for (let i = 1; i < 5; i++) assert.equal(new Set(lines.map((line) => line[i])).size, COUNT, lines.map((line) => line[i]).join(" "));
  // The image has none, and the few that booted got none.
  const ids = lines.map((line) => line[0]).filter((id) => id !== "");
  assert.equal(new Set(ids).size, ids.length, ids.join(" "));
  assert.ok(ids.length >= COUNT - 4 && ids.every((id) => /^[0-9a-f]{32}$/.test(id)), ids.join(" "));
  assert.deepEqual(lines.map((line) => line[3]), all.map(({ id }) => id));
  assert.deepEqual(lines.map((line) => line[4]), all.map(({ id }) => id.replaceAll("_", "-")));
  assert.ok(lines.every((line) => line[5] === "1"), JSON.stringify(lines));
});
await check("their clocks go right", async () => {
  const before = Date.now();
  const seen = await Promise.all(all.map((sandbox) => sandbox.sh`date +%s%3N`.text()));
  const after = Date.now();
  for (const text of seen) assert.ok(Number(text) > before - 1000 && Number(text) < after + 1000, `${before} ${text} ${after}`);
});
await check("all of them end", async () => {
  await Promise.all(all.map((sandbox) => sandbox.kill()));
});
finish();

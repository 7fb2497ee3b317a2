// Twenty sandboxes at once: made together, each answers with what is its own, all end.
// Prints TAP; the three environment variables that `hutch serve` prints must be set.
import process from "node:process";
import { Sandbox } from "@deno/sandbox";
import { assert } from "./checks/lib.mjs";

const COUNT = 20;
let number = 0;
function report(name, error) {
  console.log(`${error ? "not ok" : "ok"} ${++number} - ${name}`);
  if (error) for (const line of String(error.stack ?? error).split("\n").slice(0, 8)) console.log(`# ${line}`);
}
async function check(name, body) {
  try {
    report(name, undefined, await body());
  } catch (error) {
    report(name, error);
  }
}

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
await check("all of them end", async () => {
  await Promise.all(all.map((sandbox) => sandbox.kill()));
});
console.log(`1..${number}`);
process.exit(0);

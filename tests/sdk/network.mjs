// The network of a sandbox, changed and watched while it runs: `hutch policy` and `hutch net` beside the
// client that made it. HUTCH names the program, TEST_HTTP_PORT a server of the tests' own Internet.
import { spawn } from "node:child_process";
import process from "node:process";
import { Sandbox } from "@deno/sandbox";
import { assert } from "./checks/lib.mjs";
import { check, finish, hutch } from "./checks/tap.mjs";

const url = `http://plain.test:${process.env.TEST_HTTP_PORT}`;

let sandbox;
const curl = async (...args) =>
  await (await sandbox.spawn("curl", { args: ["-sS", "-m", "60", ...args], stdout: "piped", stderr: "piped" })).output();

await check("a network that reaches nothing is opened while the sandbox runs", async () => {
  sandbox = await Sandbox.create({ allowNet: [], timeout: "10m" });
  assert.equal(await hutch("policy", "show", sandbox.id), "");
  assert.equal((await curl(`${url}/echo/5`)).status.code, 6);
  assert.equal(await hutch("policy", "set", sandbox.id, "PLAIN.test", "*.wild.test:443"), "*.wild.test:443\nplain.test\n");
  assert.equal((await curl(`${url}/echo/5`)).stdoutText, "xxxxx");
});

await check("a policy that is none is refused with its reason, and changes nothing", async () => {
  await assert.rejects(hutch("policy", "set", sandbox.id, "*"), (error) => error.code === 125 && /"\*"/.test(error.stderr));
  assert.equal((await curl(`${url}/echo/5`)).stdoutText, "xxxxx");
  await assert.rejects(hutch("policy", "set", "sbx_loc_00000000000000000000", "none"), /there is no sandbox of this id/);
});

await check("connections that are not allowed any more are cut", async () => {
  // Bytes without end, until the connection is reset.
  const child = await curlBegins();
  await hutch("policy", "set", sandbox.id, "other.test");
  const { code } = await child.status;
  assert.ok(code === 56 || code === 18, `curl ended with ${code}`);
  assert.equal((await curl(`${url}/echo/5`)).status.code, 6);
});

async function curlBegins() {
  const child = await sandbox.spawn("curl", { args: ["-sS", "-m", "120", "-o", "/tmp/endless", `${url}/endless`], stderr: "null" });
  for (;;) {
    const size = await sandbox.fs.stat("/tmp/endless").then((info) => info.size, () => 0);
    if (size > 0) return child;
  }
}

await check("hutch net follows what is decided until the sandbox ends, and its chain holds", async () => {
  const follower = spawn(process.env.HUTCH, ["net", sandbox.id], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  follower.stdout.setEncoding("utf8").on("data", (part) => text += part);
  const ended = new Promise((resolve) => follower.on("exit", resolve));
  await curl("http://watched.test/");
  while (!/deny +watched\.test +lookup/.test(text)) await new Promise((resolve) => setTimeout(resolve, 50));
  const lines = (await hutch("net", "--no-follow", "--json", sandbox.id)).trim().split("\n").map((line) => JSON.parse(line));
  const events = lines.map((line) => line.event);
  for (const event of ["policy", "open", "close", "deny", "refuse"]) assert.ok(events.includes(event), `${event} in ${events}`);
  await sandbox.kill();
  assert.equal(await ended, 0);
  assert.match(text, /refuse +plain\.test:\d+ +policy_changed/);
  assert.match(text, /open +plain\.test:\d+ .*rule plain\.test, HTTP/);
  assert.match(await hutch("net", "verify", sandbox.id), /^\d+ lines, an unbroken chain; its last hash is [0-9a-f]{64}\n$/);
});

finish();

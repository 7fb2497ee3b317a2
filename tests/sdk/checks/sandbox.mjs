// Sandbox: making, finding, ending; its processes and requests.
import process from "node:process";
import { Sandbox } from "@deno/sandbox";
import { assert, bytes, eventually, fresh, pattern, readAll, rejection, row, same, text } from "./lib.mjs";

const ID = /^sbx_([a-z]{3})_[0-9a-hjkmnp-z]{20}$/;

async function own(options, work) {
  const sandbox = await Sandbox.create(options);
  try {
    return await work(sandbox);
  } finally {
    await sandbox.kill().catch(() => {});
  }
}

const output = async (sandbox, command, options) =>
  await (await sandbox.spawn(command, { stdout: "piped", stderr: "piped", ...options })).output();

export default [
  row("Sandbox.create()", async (sandbox) => {
    assert.match(sandbox.id, ID);
    assert.equal(await sandbox.sh`echo hello`.text(), "hello\n");
  }),
  row("create.token", async () => {
    await rejection(Sandbox.create({ token: "ddo_this_is_not_a_token" }), "InvalidTokenError");
  }),
  row("create.org", async () => {
    await rejection(Sandbox.create({ token: "ddp_this_is_not_a_token", org: "local" }), "InvalidTokenError");
  }),
  row("create.apiEndpoint and sandboxEndpoint; create.env, memory, labels", async () => {
    const endpoint = process.env.DENO_SANDBOX_ENDPOINT;
    const regions = [];
    const options = {
      apiEndpoint: process.env.DENO_DEPLOY_ENDPOINT,
      sandboxEndpoint: (region) => (regions.push(region), endpoint),
      env: { FROM_CREATE: "x y" },
      memory: "1GiB",
      labels: { purpose: "check", number: "1" },
      debug: true,
    };
    await own(options, async (sandbox) => {
      assert.equal(regions.length, 1);
      assert.equal(await sandbox.sh`printf %s "$FROM_CREATE"`.text(), "x y");
      const kib = Number(await sandbox.sh`awk '/MemTotal/ { print $2 }' /proc/meminfo`.text());
      assert.ok(kib > 900 * 1024 && kib <= 1024 * 1024, `${kib} KiB`);
    });
  }),
  row("create.timeout \"session\"", async () => {
    const sandbox = await Sandbox.create({ timeout: "session" });
    const second = await Sandbox.connect(sandbox.id);
    await sandbox.close();
    await second.closed;
    const error = await rejection(Sandbox.connect(sandbox.id), "ConnectionEstablishmentError", "SANDBOX_ALREADY_TERMINATED");
    assert.equal(error.status, 400);
  }),
  row("create.timeout duration", async () => {
    const sandbox = await Sandbox.create({ timeout: "45s" });
    await sandbox.fs.writeTextFile("kept", "1");
    await sandbox.close();
    const again = await Sandbox.connect(sandbox.id);
    assert.equal(await again.fs.readTextFile("kept"), "1");
    await again.closed;
    await rejection(Sandbox.connect(sandbox.id), "ConnectionEstablishmentError", "SANDBOX_ALREADY_TERMINATED");
  }),
  row("create.allowNet []", async () =>
    await own({ allowNet: [] }, async (sandbox) => {
      const { status } = await output(sandbox, "curl", { args: ["-sS", "-m", "5", "http://198.51.100.1/"] });
      assert.notEqual(status.code, 0);
    })),
  row("create.allowNet [hosts]", async () => {
    const port = process.env.TEST_HTTP_PORT;
    await own({ allowNet: ["plain.test", `*.wild.test:${port}`] }, async (sandbox) => {
      const curl = async (url) => await output(sandbox, "curl", { args: ["-sS", "-m", "30", url] });
      for (const host of ["plain.test", "a.b.wild.test"]) {
        const { status, stdoutText } = await curl(`http://${host}:${port}/echo/5`);
        assert.deepEqual([status.code, stdoutText], [0, "xxxxx"], host);
      }
      // A name that is not listed does not exist, an address that is not listed is refused.
      assert.equal((await curl(`http://other.test:${port}/echo/5`)).status.code, 6);
      assert.equal((await curl(`http://wild.test:${port}/echo/5`)).status.code, 6);
      assert.equal((await curl(`http://1.1.1.1:${port}/`)).status.code, 7);
      const got = await sandbox.fetch(`http://plain.test:${port}/echo/3`);
      assert.deepEqual([got.status, await got.text()], [200, "xxx"]);
      await rejection(sandbox.fetch(`http://other.test:${port}/echo/3`), "TypeError");
    });
    for (const wrong of ["*", "https://example.com", "a.*.b"]) {
      const error = await rejection(Sandbox.create({ allowNet: [wrong] }), "ConnectionEstablishmentError", "INVALID_ALLOW_NET");
      assert.equal(error.status, 400);
      assert.match(error.message, /allow_net/);
    }
  }, ["Sandbox.create", "Sandbox.fetch"]),
  row("Sandbox.connect", async (sandbox) => {
    const second = await Sandbox.connect({ id: sandbox.id });
    assert.equal(second.id, sandbox.id);
    const path = fresh();
    await second.fs.writeTextFile(path, "shared");
    assert.equal(await sandbox.fs.readTextFile(path), "shared");
    await second.close();
    const error = await rejection(Sandbox.connect("sbx_loc_00000000000000000000"), "ConnectionEstablishmentError", "SANDBOX_NOT_FOUND");
    assert.equal(error.status, 404);
    await rejection(Sandbox.connect({ id: sandbox.id, token: "ddo_wrong" }), "InvalidTokenError");
  }),
  row("sandbox.id", async ({ id }) => assert.match(id, ID)),
  row("sandbox.fs", async ({ fs }) => assert.match(await fs.readTextFile("/etc/os-release"), /^ID=debian$/m)),
  row("sandbox.kill and closed", async () => {
    const sandbox = await Sandbox.create({ timeout: "5m" });
    const second = await Sandbox.connect(sandbox.id);
    await sandbox.kill();
    await sandbox.closed;
    await second.closed;
    await rejection(second.fs.readTextFile("/etc/hostname"), "ConnectionClosedError");
    await rejection(Sandbox.connect(sandbox.id), "ConnectionEstablishmentError", "SANDBOX_ALREADY_TERMINATED");
  }, ["Sandbox.kill", "Sandbox.closed"]),
  row("sandbox.close", async (sandbox) => {
    const second = await Sandbox.connect(sandbox.id);
    await second.close();
    await second.closed;
    assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
  }),
  row("sandbox.extendTimeout", async () => {
    const sandbox = await Sandbox.create({ timeout: "40s" });
    const until = await sandbox.extendTimeout("10m");
    assert.ok(until instanceof Date && until.getTime() > Date.now() + 60_000, String(until));
    await new Promise((resolve) => setTimeout(resolve, 45_000));
    assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
    await sandbox.kill();
  }),
  row("spawn(command, options)", async (sandbox) => {
    const { status, stdoutText, stderrText } = await output(sandbox, "bash", { args: ["-c", "echo out; echo err >&2; exit 3"] });
    assert.deepEqual([status.code, status.success, status.signal, status.oom], [3, false, null, false]);
    assert.deepEqual([stdoutText, stderrText], ["out\n", "err\n"]);
    await rejection(sandbox.spawn("no-such-program-anywhere"), "NotFound", "ENOENT");
  }),
  row("spawn.args", async (sandbox) => {
    const { stdoutText } = await output(sandbox, "printf", { args: ["[%s]", "one two", "", "ü'\"$x\n"] });
    assert.equal(stdoutText, "[one two][][ü'\"$x\n]");
  }),
  row("spawn.cwd", async (sandbox) => {
    assert.equal((await output(sandbox, "pwd")).stdoutText, "/home/app\n");
    assert.equal((await output(sandbox, "pwd", { cwd: "/usr/lib" })).stdoutText, "/usr/lib\n");
    await rejection(sandbox.spawn("pwd", { cwd: "/no/such" }), "NotFound", "ENOENT");
  }),
  row("spawn.env, clearEnv", async (sandbox) => {
    await sandbox.env.set("LAYERED", "set");
    const shown = async (options) => (await output(sandbox, "/usr/bin/env", options)).stdoutText.split("\n");
    assert.ok((await shown()).includes("LAYERED=set"));
    const over = await shown({ env: { LAYERED: "call" } });
    assert.ok(over.includes("LAYERED=call") && over.includes("HOME=/home/app"));
    assert.deepEqual((await shown({ clearEnv: true, env: { ONLY: "1" } })).filter((line) => line !== ""), ["ONLY=1"]);
  }),
  row("spawn.stdin piped", async (sandbox) => {
    const child = await sandbox.spawn("cat", { stdin: "piped", stdout: "piped" });
    const writer = child.stdin.getWriter();
    const sending = (async () => {
      for (let i = 0; i < 8; i++) await writer.write(pattern(1 << 20));
      await writer.close();
    })();
    const got = await readAll(child.stdout);
    await sending;
    assert.equal(got.length, 8 << 20);
    same(got.subarray(7 << 20), pattern(1 << 20));
    assert.equal((await child.status).code, 0);
  }),
  row("spawn.stdin null", async (sandbox) => {
    const child = await sandbox.spawn("cat", { stdin: "null", stdout: "piped" });
    assert.equal(child.stdin, null);
    assert.equal((await child.output()).stdoutText, "");
  }),
  row("spawn.stdout and stderr null", async (sandbox) => {
    const child = await sandbox.spawn("bash", { args: ["-c", "echo lost; echo lost >&2"], stdout: "null", stderr: "null" });
    assert.deepEqual([child.stdout, child.stderr], [null, null]);
    assert.equal((await child.status).success, true);
  }),
  row("spawn.signal", async (sandbox) => {
    const abort = new AbortController();
    const child = await sandbox.spawn("sleep", { args: ["600"], signal: abort.signal });
    abort.abort();
    const status = await child.status;
    assert.deepEqual([status.code, status.signal, status.success], [143, "SIGTERM", false]);
  }),
  row("fetch(url, init)", async (sandbox) => {
    const server = `
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        code = {"/empty": 204, "/moved": 302, "/gone": 410}.get(self.path, 200)
        text = f"{self.command} {self.path} {self.headers.get('x-given', '-')} {len(body)}".encode()
        self.send_response(code)
        self.send_header("x-answer", "yes")
        if code == 302: self.send_header("location", "/target")
        if code != 204: self.send_header("content-length", str(len(text)))
        self.end_headers()
        if code != 204: self.wfile.write(text)
    do_GET = do_POST = do_PUT = answer
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8123), Handler).serve_forever()
`;
    await sandbox.fs.writeTextFile("server.py", server);
    const child = await sandbox.spawn("python3", { args: ["server.py"], stdout: "null", stderr: "null" });
    const url = "http://127.0.0.1:8123";
    await eventually(async () => await sandbox.fetch(url).then(() => true, () => false), "the server listens");
    const got = await sandbox.fetch(`${url}/a?b=c`, { headers: { "x-given": "h" } });
    assert.deepEqual([got.status, got.headers.get("x-answer"), await got.text()], [200, "yes", "GET /a?b=c h 0"]);
    const posted = await sandbox.fetch(`${url}/p`, { method: "POST", body: pattern(200_000) });
    assert.equal(await posted.text(), "POST /p - 200000");
    const empty = await sandbox.fetch(`${url}/empty`);
    assert.deepEqual([empty.status, await empty.text()], [204, ""]);
    assert.equal((await sandbox.fetch(`${url}/gone`)).status, 410);
    assert.equal(await (await sandbox.fetch(`${url}/moved`)).text(), "GET /target - 0");
    const moved = await sandbox.fetch(`${url}/moved`, { redirect: "manual" });
    assert.deepEqual([moved.status, moved.headers.get("location")], [302, "/target"]);
    await child.kill();
    await child.status;
    await rejection(sandbox.fetch(url), "TypeError");
  }),
  row("fetch.signal", async (sandbox) => {
    const child = await sandbox.spawn("python3", { args: ["-c", "import socket, time; s = socket.create_server(('127.0.0.1', 8124)); time.sleep(600)"], stdout: "null", stderr: "null" });
    await eventually(async () => (await output(sandbox, "bash", { args: ["-c", "exec 3<>/dev/tcp/127.0.0.1/8124"] })).status.success, "the port is open");
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 500);
    await rejection(sandbox.fetch("http://127.0.0.1:8124/", { signal: abort.signal }), "AbortError");
    await child.kill("SIGKILL");
  }),
];

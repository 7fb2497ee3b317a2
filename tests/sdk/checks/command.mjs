// sandbox.sh, its modifiers, signals, and ChildProcess.
import { KillController } from "@deno/sandbox";
import { assert, bytes, fresh, pattern, readAll, rejection, row, same, text } from "./lib.mjs";

export default [
  row("sh``.text()", async (sandbox) => {
    assert.equal(await sandbox.sh`printf '%s' ${"a b'c"}`.text(), "a b'c");
    assert.equal(await sandbox.sh`echo $HOME`.text(), "/home/app\n");
  }),
  row("sh``.json()", async (sandbox) => assert.deepEqual(await sandbox.sh`echo '{"a": [1, null]}'`.json(), { a: [1, null] })),
  row("sh``.result()", async (sandbox) => {
    const result = await sandbox.sh`true`.result();
    assert.equal(result.status.success, true);
  }),
  row("sh``.spawn()", async (sandbox) => {
    const child = await sandbox.sh`exit 0`.spawn();
    assert.equal((await child.output()).status.code, 0);
  }),
  row("sh``.noThrow()", async (sandbox) => {
    const { status } = await sandbox.sh`exit 7`.noThrow();
    assert.deepEqual([status.code, status.success], [7, false]);
  }),
  row("SandboxCommandError", async (sandbox) => {
    const error = await rejection((async () => await sandbox.sh`exit 9`)(), "SandboxCommandError");
    assert.equal(error.code, 9);
  }),
  row("sh``.sudo()", async (sandbox) => {
    await sandbox.sh`id -u > /tmp/root-id`.sudo();
    const path = fresh();
    await sandbox.sh`tee ${path} < /etc/shadow > /dev/null`.noThrow();
    assert.equal((await sandbox.spawn("sudo", { args: ["id", "-u"], stdout: "piped" }).then((child) => child.output())).stdoutText, "0\n");
  }),
  row("sh``.cwd()", async (sandbox) => {
    const path = fresh();
    await sandbox.sh`pwd > ${path}`.cwd("/usr");
    assert.equal(await sandbox.fs.readTextFile(path), "/usr\n");
  }),
  row("sh``.env()", async (sandbox) => {
    const path = fresh();
    await sandbox.sh`printf %s "$GIVEN_HERE" > ${path}`.env("GIVEN_HERE", "1 2");
    assert.equal(await sandbox.fs.readTextFile(path), "1 2");
  }),
  row("sh``.stdout()", async (sandbox) => {
    const { stdoutText } = await sandbox.sh`echo out`.stdout("piped");
    assert.equal(stdoutText, "out\n");
  }),
  row("sh``.stderr()", async (sandbox) => {
    const { stderrText } = await sandbox.sh`echo err >&2`.stderr("piped");
    assert.equal(stderrText, "err\n");
  }),
  row("sh``.signal(KillSignal)", async (sandbox) => {
    const controller = new KillController();
    setTimeout(() => controller.kill("SIGKILL"), 1000);
    const error = await rejection((async () => await sandbox.sh`sleep 600`.signal(controller.signal))(), "SandboxCommandError");
    assert.equal(error.code, 137);
    const early = new KillController();
    early.kill();
    assert.equal(early.signal.aborted, true);
    assert.equal(early.signal.abortedExitCode, 143);
  }),
  row("ChildProcess.pid", async (sandbox) => {
    const child = await sandbox.spawn("sh", { args: ["-c", "echo $$"], stdout: "piped" });
    assert.ok(Number.isInteger(child.pid) && child.pid > 1);
    assert.equal((await child.output()).stdoutText, `${child.pid}\n`);
  }),
  row("ChildProcess.stdin", async (sandbox) => {
    const child = await sandbox.spawn("head", { args: ["-n", "1"], stdin: "piped", stdout: "piped" });
    const writer = child.stdin.getWriter();
    await writer.write(bytes("first\nsecond\n"));
    assert.equal(text(await readAll(child.stdout)), "first\n");
    assert.equal((await child.status).code, 0);
    await writer.close().catch(() => {});
  }),
  row("ChildProcess.stdout", async (sandbox) => {
    const child = await sandbox.spawn("sh", { args: ["-c", "printf 1; sleep 1; printf 2"], stdout: "piped" });
    const reader = child.stdout.getReader();
    assert.equal(text((await reader.read()).value), "1");
    assert.equal(text((await reader.read()).value), "2");
    assert.equal((await reader.read()).done, true);
  }),
  row("ChildProcess.stdout.cancel", async (sandbox) => {
    const child = await sandbox.spawn("yes", { stdout: "piped" });
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.cancel();
    await child.kill("SIGKILL");
    assert.equal((await child.status).success, false);
    assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
  }),
  row("ChildProcess.stderr", async (sandbox) => {
    const child = await sandbox.spawn("sh", { args: ["-c", "echo err >&2"], stderr: "piped", stdout: "null" });
    assert.equal(text(await readAll(child.stderr)), "err\n");
  }),
  row("ChildProcess.status", async (sandbox) => {
    const child = await sandbox.spawn("sh", { args: ["-c", "kill -SEGV $$"] });
    const status = await child.status;
    assert.deepEqual([status.code, status.signal, status.success, status.oom], [139, "SIGSEGV", false, false]);
  }),
  row("ChildProcess.status does not wait for background children", async (sandbox) => {
    const child = await sandbox.spawn("sh", { args: ["-c", "sleep 600 & exit 5"], stdout: "piped", stderr: "piped" });
    assert.equal((await child.status).code, 5);
    await sandbox.sh`pkill sleep`.noThrow();
  }),
  row("ChildProcess.status.oom", async (sandbox) => {
    const child = await sandbox.spawn("tail", { args: ["/dev/zero"], stdout: "null", stderr: "null" });
    const status = await child.status;
    assert.deepEqual([status.code, status.signal, status.oom], [137, "SIGKILL", true]);
  }),
  row("ChildProcess.kill", async (sandbox) => {
    const child = await sandbox.spawn("sleep", { args: ["600"] });
    await child.kill("SIGUSR1");
    assert.deepEqual([(await child.status).code, (await child.status).signal], [138, "SIGUSR1"]);
    await child.kill();
  }),
  row("ChildProcess.output", async (sandbox) => {
    const child = await sandbox.spawn("head", { args: ["-c", "8388608", "/dev/zero"], stdout: "piped", stderr: "piped" });
    const { stdout, stderr, status } = await child.output();
    assert.deepEqual([stdout.length, stderr.length, status.code], [8388608, 0, 0]);
    assert.ok(stdout.every((byte) => byte === 0));
  }),
  row("ChildProcess[Symbol.asyncDispose]", async (sandbox) => {
    const child = await sandbox.spawn("sleep", { args: ["600"] });
    await child[Symbol.asyncDispose]();
    assert.equal((await child.status).success, false);
  }, ["ChildProcess.kill"]),
];
